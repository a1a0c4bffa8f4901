# check=skip=UndefinedVar,WorkdirRelativePath
FROM alpine
WORKDIR $X
CMD shell
