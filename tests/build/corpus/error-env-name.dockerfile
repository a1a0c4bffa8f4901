FROM alpine
ENV A=1 =2
