ARG A
RUN true
FROM alpine
