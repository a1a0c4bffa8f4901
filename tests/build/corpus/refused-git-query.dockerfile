FROM alpine
ADD https://example.com/r.git?brnach=x /b
