"""SPT, sensitivity-aware parameter-efficient tuning (He et al., ICCV 2023, arXiv 2303.08566).

`sensitivity` scores every weight on training batches, `allocate` spends a budget on what scores highest: a structured
module (LoRA or an adapter) where a matrix has many sensitive entries, the entries themselves where it has few.
"""

from peftbench.methods.spt.budget import Allocation, allocate
from peftbench.methods.spt.scoring import sensitivity

__all__ = ["Allocation", "allocate", "sensitivity"]
