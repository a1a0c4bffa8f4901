# Everything that is config: each instruction in each of its forms.
ARG BASE=small
ARG NOBODY
FROM ${BASE}
MAINTAINER  Ada of the tests <ada@example.org>
ARG WHO=ada
ARG GIVEN=default OTHER="two words"
ARG NOBODY
ENV ONE=1 TWO="two words" THREE=$WHO FOUR=$ONE
ENV OLD the old form
ENV PATH=$PATH:/opt/bin
ENV SET=${ONE:+set} UNSET=${NONE:-fallback} BARE=${ONE:-x} NOT=${NONE:+x}end
ENV QUOTED='$ONE' ESCAPED=\$ONE SPACE=a\ b EMPTY=
ENV GIVEN_WAS=$GIVEN OTHER_WAS=$OTHER NOBODY_WAS=$NOBODY
LABEL a=1 b="two words" "c d"=3 e='$ONE' f="$ONE"
LABEL multi="line \
goes on" a=overwritten
EXPOSE 80 443/tcp 53/UDP
EXPOSE 8000-8002 80/tcp
VOLUME /data /more
VOLUME ["/json form", "/data"]
USER ada
USER ${WHO}:wheel
WORKDIR /srv
WORKDIR rel/ative
WORKDIR $WHO/../sub/
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=3s --start-period=1m2s --retries=4 CMD test -e "/ok file"
SHELL ["/bin/sh", "-euc"]
ENTRYPOINT echo "$ONE" 'and' two
CMD exec  echo   $WHO
ONBUILD RUN echo $WHO
ONBUILD COPY a b /a/
