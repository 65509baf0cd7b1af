"""Stands in for the starts of a deployment's machines (../boot.py): runs the user data in a machine's settings, as
cloud-init's VMware source would, which reads the metadata too and wants a name in them.

    guests.py DEPLOYMENT FOLDER
"""

import base64
import json
import pathlib
import sys

from peer import content
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from boot import Machine, stand_in  # noqa: E402

deployment, folder = sys.argv[1:]
content = content()


def machines():
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    there = {}
    for machine in view.view:
        try:
            options = {option.key: option.value for option in machine.config.extraConfig}
            if options.get("runner-manager-deployment") == deployment:
                runs = machine.runtime.powerState == "poweredOn"
                there[machine._moId] = Machine(machine.name, runs, (machine, options))
        except vmodl.fault.ManagedObjectNotFound:
            continue  # it was removed since the view was made
    view.DestroyView()
    return there


def told(machine, key):
    _, options = machine.of_cloud
    assert options[f"guestinfo.{key}.encoding"] == "base64", options
    return base64.b64decode(options[f"guestinfo.{key}"])


def script(machine):
    metadata = json.loads(told(machine, "metadata"))
    assert metadata["local-hostname"] == metadata["instance-id"] == machine.name, metadata
    return told(machine, "userdata")


def stop(machine):
    try:
        WaitForTask(machine.of_cloud[0].PowerOffVM_Task())
    except (vim.fault.InvalidPowerState, vmodl.fault.ManagedObjectNotFound):
        pass  # it is being removed


stand_in(folder, machines, script, stop)
