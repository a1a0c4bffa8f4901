FROM alpine
ARG --default=1 A
