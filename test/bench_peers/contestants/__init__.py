"""Who takes part, in the order in which they run in a round."""

from .bare import Bare
from .by_hand import ByHand
from .stream_agg import StreamAgg
from .spark import Spark
from .flink import Flink
from .copy_group_by import CopyGroupBy

CONTESTANTS = {contestant.name: contestant for contestant in
               (Bare, ByHand, StreamAgg, Spark, Flink, CopyGroupBy)}
