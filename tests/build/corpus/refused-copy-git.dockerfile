FROM alpine
COPY git@example.com:x.git /x
