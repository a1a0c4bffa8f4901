FROM alpine
COPY --from=later /a /b
FROM alpine AS later
