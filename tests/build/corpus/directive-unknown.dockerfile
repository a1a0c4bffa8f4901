# colour=red
# escape=`
FROM alpine
RUN echo \
  one
