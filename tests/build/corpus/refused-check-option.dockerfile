# check=skpi=all
FROM alpine
