FROM --plattform=linux/arm64 alpine
