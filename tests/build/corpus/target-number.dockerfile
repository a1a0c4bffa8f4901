FROM alpine
RUN one
FROM debian
RUN two
