FROM two AS one
COPY --from=two /a /b
FROM one AS two
