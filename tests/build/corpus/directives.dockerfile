# syntax=docker/dockerfile:1
# Escape = `
# check=skip=JSONArgsRecommended
FROM alpine
RUN echo a `
  b
COPY C:\a /b
