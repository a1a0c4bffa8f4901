FROM alpine
ENV A=xxxxxxxxxxxxxxxx
ENV A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A
ENV A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A
ENV A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A
ENV A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A
