FROM alpine
ARG A B=1 C="x y" D='$E' F=
ENV A=1 B="x y"  C=x\ y D= E='$A'
ENV OLD style "kept as is"
LABEL a=b "c d"="e f" g="multi \
line"
LABEL old style
