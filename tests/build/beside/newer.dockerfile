# syntax=docker/dockerfile:1
# What buildah 1.28 does not know yet; newer.older says the same in words that it knows.
FROM small
ENV A=one.two.three
ENV LONG=${A:-x}
ENV CUT=${A#*.} CUTS=${A##*.} END=${A%.*} ENDS=${A%%.*} SUB=${A/./-} SUBS=${A//./-}
ENV UNSET=${NONE-fallback} ALT=${A+set} MUST=${A:?said} ALSO=${A?said}
RUN <<EOF
echo first >/doc
echo second >>/doc
EOF
RUN <<EOF sh -e
echo $A >/shell
EOF
COPY <<EOF <<"RAW" /docs/
expanded $A
EOF
raw $A
RAW
COPY --link file /linked
COPY --parents dir/sub/b ./dir/a /parents/
COPY --exclude=sub --exclude=*.no dir /less/
ADD --exclude=a dir /added/
ADD --chmod=640 --link file /mode
COPY --chmod=u=rwX,go=rX --chown=ada dir /symbolic/
ADD --unpack=false plain.tar /kept.tar
ADD --unpack=true plain.tar /unpacked/
HEALTHCHECK --start-interval=7s CMD true
RUN --network=none echo $(ls /sys/class/net) >/nets
RUN --network=default --mount=type=tmpfs,target=/t,size=1m stat -f -c %T /t >/kind
