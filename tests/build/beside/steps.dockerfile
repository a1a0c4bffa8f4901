# What RUN does to files and sees of the image, in each form.
FROM small
ARG SEEN=arg
ENV KEPT=env
RUN mkdir -m 1777 /a && echo one >/a/one && ln /a/one /a/again && ln -s one /a/link \
    && mkfifo -m 640 /a/fifo && chmod 4755 /a/one && mkdir -m 2750 /a/deep && echo x >/a/deep/x \
    && chown -R 1000:10 /a/deep && printf '' >/a/empty && ln -s /nowhere/at/all /a/dangling
# Gone, replaced by another kind, and a folder that is made anew.
RUN rm /a/again && rm -r /a/deep && mkdir /a/deep && echo new >/a/deep/new \
    && rm /a/link && mkdir /a/link && rm -r /home/ada && echo file >/home/ada && rm /bin/yes
RUN chmod 700 /a/one; chown ada /a/empty
RUN ["/bin/sh", "-c", "echo \"$SEEN $KEPT $0 $#\" >/json"]
SHELL ["/bin/sh", "-xc"]
RUN echo "$SEEN $KEPT $(pwd) $(id -u):$(id -g) $(umask) $HOME" >/seen
WORKDIR /made/for/it
USER ada
RUN id >/tmp/id; pwd >/tmp/pwd; touch /tmp/own; test ! -w /etc || exit 3
USER 7:8
RUN id -u >/tmp/numbers; id -g >>/tmp/numbers
USER root
RUN --mount=type=cache,target=/cache,uid=5,mode=0711 echo kept >/cache/f; stat -c '%u %a' /cache >/own
RUN --mount=type=cache,target=/cache,uid=5,mode=0711 cat /cache/f >/cached
RUN --mount=type=tmpfs,target=/t touch /t/gone; stat -f -c %T /t >/kind
RUN --mount=type=secret,id=word,target=/there/word,mode=0440 cp -p /there/word /told
RUN --mount=type=bind,source=dir,target=/ctx cp -r /ctx /bound
CMD true
