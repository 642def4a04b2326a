# stream_agg: stream processing inside PostgreSQL
EXTENSION = stream_agg
MODULE_big = stream_agg
DATA = src/stream_agg--1.0.sql
DOCS =
PGFILEDESC = "stream_agg - micro-batch stream processing of Kafka topics"

SOURCES = $(sort $(wildcard src/*.c src/*/*.c))
CXX_SOURCES = $(sort $(wildcard src/*/*.cpp))
OBJS = $(SOURCES:.c=.o) $(CXX_SOURCES:.cpp=.o)

REGRESS =

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)

# The server's headers are system headers: their warnings are not ours.
PG_CPPFLAGS = -Isrc -isystem $(shell $(PG_CONFIG) --includedir-server) \
	'-DPGDLLEXPORT=__attribute__((visibility("default")))'
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare -fvisibility=hidden
PG_CXXFLAGS = -std=c++17 -Wall -Wextra -fvisibility=hidden \
	-fvisibility-inlines-hidden -fno-exceptions -fno-rtti
SHLIB_LINK = -lrdkafka -lsimdjson -lstdc++ -Wl,--exclude-libs,ALL

ifdef WERROR
PG_CFLAGS += -Werror
PG_CXXFLAGS += -Werror
endif

include $(PGXS)

# The bitcode rule does not see PG_CXXFLAGS.
BITCODE_CXXFLAGS += -std=c++17

# Header dependencies, written beside each object.
override CPPFLAGS += -MMD -MP
-include $(OBJS:.o=.d)
clean: clean-deps
.PHONY: clean-deps
clean-deps:
	rm -f $(OBJS:.o=.d) $(OBJS:.o=.bc)
