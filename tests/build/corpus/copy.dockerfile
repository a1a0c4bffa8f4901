FROM alpine AS a
FROM alpine
COPY --from=a --chown=1:$G --chmod=u+x --link --parents=true --exclude=*.o --exclude=b x y /z/
ADD --checksum=sha256:0123456789012345678901234567890123456789012345678901234567890123 --keep-git-dir --unpack=false https://example.com/a.tar.gz /b
ADD --chown=u:g --link --exclude=**/*.md --keep-git-dir=false https://example.com/a.git#v1:dir ./
COPY --link=FALSE "a" 'b' /c
