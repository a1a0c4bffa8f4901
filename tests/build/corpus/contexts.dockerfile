FROM base AS one
RUN one
FROM alpine AS two
RUN never
FROM alpine
COPY --from=two /a /b
COPY --from=extra /c /d
RUN --mount=from=extra,target=/e true
