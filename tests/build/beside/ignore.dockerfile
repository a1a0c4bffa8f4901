# Beside ignore.dockerfile.dockerignore; only what is left is copied.
FROM small
COPY . /all/
