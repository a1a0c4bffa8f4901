FROM alpine
RUN <<EOF
set -e
echo "$HOME"
EOF
RUN <<-"END" cat > /x
	tabs
	END
RUN 3<<A cat <<'B' > "/y"
a
A
$b
B
RUN echo 1 << 2
2
RUN cat<<NONE
RUN echo "it's <<NONE"
COPY <<a.txt <<-b.txt "<<c" /files/
$A
a.txt
	b
b.txt
ADD --chmod=644 <<'x' /z
x
ONBUILD RUN <<EOF
later
EOF
