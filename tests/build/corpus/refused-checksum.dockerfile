FROM alpine
ADD --checksum=sha256:00 a b
