FROM alpine
SHELL ["/bin/bash", "-eo", "pipefail", "-c"]
RUN plain $HOME
RUN ["exec", "form", "$HOME"]
RUN <<EOF
several
lines
EOF
RUN <<-EOF
	#!/usr/bin/env python3
	print(1)
	EOF
RUN cat <<EOF > /x
$kept
EOF
ARG ID=pip
WORKDIR /w
USER app
RUN --mount=type=cache,id=$ID,target=cache,sharing=locked,uid=1000,mode=0700 \
    --mount=type=cache,target=/root/.cache/,from=alpine,source=/c \
    --mount=type=tmpfs,target=/t,size=64m \
    --mount=type=secret,id=token --mount=type=secret,id=key,env=KEY,required \
    --mount=type=secret,target=/run/x,uid=1 \
    --mount=type=ssh --mount=type=ssh,id=other,target=/agent,required=true \
    --mount=target=. --network=host --security=insecure \
    make
CMD still $A shell
ENTRYPOINT ["/e"]
HEALTHCHECK --interval=5s --retries=2 CMD test
