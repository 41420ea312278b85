"""Write the dashboard, the alert rules and the tables of their documentation.

python -m otad_ray.monitoring [ROOT]        # ROOT: the repository, by default the working directory
"""

import sys
from pathlib import Path

from otad_ray.monitoring.files import write_files

if __name__ == "__main__":
    for path in write_files(Path(sys.argv[1] if len(sys.argv) > 1 else ".")):
        print(path)
