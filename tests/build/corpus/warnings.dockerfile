# check=experimental=all
ARG NAME
ARG EMPTY
# wrong words
ARG API_KEY=1
FROM $NAME AS Scratch
from --platform=$TARGETPLATFORM alpine$UNDECLARED as x
FROM --platform=linux/arm64 alpine AS x
MAINTAINER me
ENV OLD style
LABEL OLD style
ENV TOKEN_FILE=/x PASSWORD=y
WORKDIR rel
WORKDIR rel2
RUN a \

  b
USER $UNKNOWN
ENV HOME=/x
COPY secret.txt $HMOE/
CMD one
CMD two
EXPOSE 80/TCP 8080:80
ENTRYPOINT exec $HOME
# check=skip=UndefinedVar
USER $UNKNOWN
FROM arm
RUN true
