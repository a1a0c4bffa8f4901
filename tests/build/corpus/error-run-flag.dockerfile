FROM alpine
RUN --moutn=type=cache,target=/a true
