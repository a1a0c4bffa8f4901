FROM alpine
MAINTAINER --boo joe
