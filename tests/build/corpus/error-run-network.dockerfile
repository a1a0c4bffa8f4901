FROM alpine
RUN --network=hosts true
