# The forms that settings.dockerfile has not, and what overwrites what.
FROM small
CMD ["lost"]
ENTRYPOINT ["/bin/sh", "-c", "a \"quoted\" word", "tab\there"]
HEALTHCHECK CMD ["probe", "write", "/x"]
HEALTHCHECK NONE
STOPSIGNAL 9
USER 1000:10
EXPOSE 1
CMD []
WORKDIR /
SHELL ["/bin/sh", "-c"]
LABEL empty=""
ENV "quoted name"=x
