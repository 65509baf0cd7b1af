"""Tells, with VMware's own client, of all machines of vcsim that bear a deployment's mark: one JSON list.

    look.py DEPLOYMENT
"""

import json
import sys

from peer import content
from pyVmomi import vim, vmodl

content = content()
view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
fields = {field.key: field.name for field in content.customFieldsManager.field or []}
found = []
for machine in view.view:
    try:
        options = {option.key: option.value for option in machine.config.extraConfig}
        if options.get("runner-manager-deployment") != sys.argv[1]:
            continue
        found.append(
            {
                "name": machine.name,
                "reference": machine._moId,
                "power": machine.runtime.powerState,
                "cpus": machine.config.hardware.numCPU,
                "memory": machine.config.hardware.memoryMB,
                "annotation": machine.config.annotation,
                "options": options,
                "attributes": {fields[value.key]: value.value for value in machine.customValue or []},
            }
        )
    except vmodl.fault.ManagedObjectNotFound:
        # Another test removed it since the view was made.
        continue
json.dump(found, sys.stdout)
