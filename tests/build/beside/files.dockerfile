# COPY and ADD: where files go, whose they are, and what stays as it was.
FROM small
RUN mkdir -m 700 -p /there/inner && ln -s there /way && echo old >/there/file && mkdir /full \
    && echo old >/full/old
COPY file /new
COPY file /there
COPY file exec /several/
COPY ["spaced name", "/json form/"]
COPY dir /whole
COPY dir/ /full/
COPY dir/sub/.. /up/
COPY d?r/a* /glob/
COPY *.txt ./globbed/
COPY link /linked
COPY file /way/through
COPY --chown=ada file /owned/user
COPY --chown=ada:wheel dir /owned/both
COPY --chown=7:8 file exec /owned/numbers/
COPY --chmod=751 file dir/a /modes/
WORKDIR /relative
COPY file here
COPY file dir ./
COPY . /everything/
ADD file /added/
ADD plain.tar /plain/
ADD packed.tar.gz packed.tar.xz packed.tar.bz2 /packed/
ADD --chown=5:6 plain.tar /chowned/
COPY plain.tar /not-unpacked.tar
ADD --chmod=600 file /added/mode
VOLUME /volume
COPY file /volume/
