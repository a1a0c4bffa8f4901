FROM alpine
ARG V=1.0 WHO=me
WORKDIR /w
COPY a b* ./
COPY ../../etc/passwd /x/
COPY --parents ./src/./lib/*.c *.h /p/
COPY --chown=$WHO --chmod=u=rwX,go=rX --link --exclude=**/*.o . .
COPY <<EOF <<'RAW' /docs/
$WHO says "hi" \$V
EOF
$WHO
RAW
ADD https://example.com/a-$V.tar.gz http://example.com/ /tars/
ADD --unpack=true --checksum=sha256:0123456789012345678901234567890123456789012345678901234567890123 https://example.com/b.tgz /b
ADD local.tar.gz /local/
ADD --unpack=false local.tar.gz /kept/
ADD --keep-git-dir git@example.com:me/repo.git#main:sub/dir /git
ADD https://example.com/repo.git?tag=v1&submodules=false /git2
ADD --checksum=0123456789abcdef0123456789abcdef01234567 https://example.com/r.git /git3
