FROM alpine
RUN --network=none --security=insecure --mount=type=cache,target=/a,id=$B --mount="type=secret,id=c" -- --make it
run true
WORKDIR /w
RUN --mount=target=. --mount=type=bind,from=golang:1,source=/x,target=/y,rw make
RUN --mount=type=tmpfs,target=/t,size=64m --mount=type=ssh,required,mode=0600 make
