"""Clones a machine of vcsim, with all its settings, as somebody at the console of a vCenter might.

    clone.py NAME COPY
"""

import sys

from peer import content
from pyVim.task import WaitForTask
from pyVmomi import vim

name, copy = sys.argv[1:]
machine = content().searchIndex.FindByInventoryPath("DC0/vm/" + name)
# vCenter copies these by itself, vcsim does not.
options = [vim.option.OptionValue(key=option.key, value=option.value) for option in machine.config.extraConfig]
spec = vim.vm.CloneSpec(
    location=vim.vm.RelocateSpec(pool=machine.resourcePool),
    config=vim.vm.ConfigSpec(extraConfig=options),
    powerOn=False,
    template=False,
)
WaitForTask(machine.CloneVM_Task(folder=machine.parent, name=copy, spec=spec))
