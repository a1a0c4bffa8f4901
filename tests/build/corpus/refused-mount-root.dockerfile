FROM alpine
RUN --mount=target=. make
