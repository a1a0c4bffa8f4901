# a comment, so what follows is one too
# escape=`
FROM alpine
RUN echo \
  one
