// vcsim on loopback, with two additions of ours for the template it starts with:
// a clone of it honours the clone spec's power-on, CPUs, memory and annotation, and
// fails as vCenter does on a name in use (DuplicateName) or when the limit set
// with -max-clones is reached (InsufficientResourcesFault). Clones are made one after
// the other, with devices of their own: the simulator's share theirs with the template,
// and clones and removals at the same time panic over it.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	_ "github.com/vmware/govmomi/pbm/simulator"
	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/cluster/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

var (
	listen    = flag.String("l", "127.0.0.1:15300", "listen address")
	user      = flag.String("user", "peer", "user name")
	password  = flag.String("password", "peer", "password")
	cert      = flag.String("cert", "", "TLS certificate, PEM")
	key       = flag.String("key", "", "TLS key, PEM")
	hosts     = flag.Int("hosts", 3, "hosts in the cluster")
	vms       = flag.Int("vms", 1, "VMs there at the start, in each resource pool")
	template  = flag.String("template", "runner-template", "name of the template")
	maxClones = flag.Int("max-clones", 0, "clones of the template at one time, 0 for no limit")
	delay     = flag.Int("delay", 0, "milliseconds added to every call")
	delayFor  = flag.String("delay-for", "", "milliseconds added by method: CloneVM_Task=500,PowerOnVM_Task=200")
	jitter    = flag.Float64("jitter", 0, "spread of the delays: standard deviation / mean")
)

// templateVM is the template: a VM of the simulator whose clones are made more like vCenter's.
// (Embedded by value: the simulator looks for the managed object in the first field.)
type templateVM struct {
	simulator.VirtualMachine
	clones []types.ManagedObjectReference
}

func (t *templateVM) alive() int {
	kept := t.clones[:0]
	for _, ref := range t.clones {
		if simulator.Map.Get(ref) != nil {
			kept = append(kept, ref)
		}
	}
	t.clones = kept
	return len(kept)
}

func nameInUse(folder types.ManagedObjectReference, name string) *types.ManagedObjectReference {
	f, ok := simulator.Map.Get(folder).(*simulator.Folder)
	if !ok {
		return nil
	}
	for _, ref := range f.ChildEntity {
		if e, ok := simulator.Map.Get(ref).(mo.Entity); ok && e.Entity().Name == name {
			return &ref
		}
	}
	return nil
}

// copied is what a pointer in an interface points to, once more.
func copied(v interface{}) interface{} {
	old := reflect.ValueOf(v)
	if !old.IsValid() || old.Kind() != reflect.Ptr || old.IsNil() {
		return v
	}
	fresh := reflect.New(old.Elem().Type())
	fresh.Elem().Set(old.Elem())
	return fresh.Interface()
}

func copies(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	var all []types.BaseVirtualDevice
	for _, device := range devices {
		own := copied(device).(types.BaseVirtualDevice)
		d := own.GetVirtualDevice()
		if d.Backing != nil {
			d.Backing = copied(d.Backing).(types.BaseVirtualDeviceBackingInfo)
		}
		if d.DeviceInfo != nil {
			d.DeviceInfo = copied(d.DeviceInfo).(types.BaseDescription)
		}
		all = append(all, own)
	}
	return all
}

var cloning sync.Mutex

// CloneVMTask answers CloneVM_Task on the template.
func (t *templateVM) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) soap.HasFault {
	cloning.Lock()
	defer cloning.Unlock()
	fail := func(fault types.BaseMethodFault) soap.HasFault {
		task := simulator.CreateTask(t, "cloneVm", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
			return nil, fault
		})
		return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: task.Run()}}
	}
	if ref := nameInUse(req.Folder, req.Name); ref != nil {
		return fail(&types.DuplicateName{Name: req.Name, Object: *ref})
	}
	if *maxClones > 0 && t.alive() >= *maxClones {
		return fail(&types.InsufficientResourcesFault{})
	}
	devices := t.Config.Hardware.Device
	t.Config.Hardware.Device = copies(devices)
	res := t.VirtualMachine.CloneVMTask(ctx, req)
	t.Config.Hardware.Device = devices
	body, ok := res.(*methods.CloneVM_TaskBody)
	if !ok || body.Res == nil {
		return res
	}
	task := simulator.Map.Get(body.Res.Returnval).(*simulator.Task)
	ref, ok := task.Info.Result.(types.ManagedObjectReference)
	if !ok {
		return res
	}
	clone := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	t.clones = append(t.clones, ref)
	if c := req.Spec.Config; c != nil {
		clone.ReconfigVMTask(ctx, &types.ReconfigVM_Task{This: ref, Spec: types.VirtualMachineConfigSpec{
			NumCPUs: c.NumCPUs, NumCoresPerSocket: c.NumCoresPerSocket, MemoryMB: c.MemoryMB,
			Annotation: c.Annotation,
		}})
	}
	if req.Spec.PowerOn && !req.Spec.Template {
		clone.PowerOnVMTask(ctx, &types.PowerOnVM_Task{This: ref})
	}
	return res
}

// makeTemplate turns the VM of the standalone host into the template, with a snapshot for linked clones.
func makeTemplate(u *url.URL) error {
	ctx := context.Background()
	c, err := govmomi.NewClient(ctx, u, true)
	if err != nil {
		return err
	}
	vm, err := find.NewFinder(c.Client).VirtualMachine(ctx, "/DC0/vm/DC0_H0_VM0")
	if err != nil {
		return err
	}
	obj := simulator.Map.Get(vm.Reference()).(*simulator.VirtualMachine)
	if task, err := vm.PowerOff(ctx); err == nil {
		_ = task.Wait(ctx)
	}
	task, err := vm.Rename(ctx, *template)
	if err == nil {
		err = task.Wait(ctx)
	}
	if err != nil {
		return err
	}
	if task, err = vm.CreateSnapshot(ctx, "base", "", false, false); err == nil {
		err = task.Wait(ctx)
	}
	if err != nil {
		return err
	}
	if err = vm.MarkAsTemplate(ctx); err != nil {
		return err
	}
	simulator.Map.Put(&templateVM{VirtualMachine: *obj})
	return c.Logout(ctx)
}

func main() {
	flag.Parse()
	m := simulator.VPX()
	m.ClusterHost = *hosts
	m.Machine = *vms
	m.DelayConfig.DelayJitter = *jitter
	methodDelay := map[string]int{}
	for _, kv := range strings.Split(*delayFor, ",") {
		if kv == "" {
			continue
		}
		name, ms, _ := strings.Cut(kv, "=")
		n, err := strconv.Atoi(ms)
		if err != nil {
			log.Fatalf("-delay-for %s: %v", kv, err)
		}
		methodDelay[name] = n
	}
	if err := m.Create(); err != nil {
		log.Fatal(err)
	}
	m.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	m.Service.TLS = new(tls.Config)
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			log.Fatal(err)
		}
		m.Service.TLS.Certificates = []tls.Certificate{pair}
	}
	m.Service.RegisterEndpoints = true
	s := m.Service.NewServer()
	if err := makeTemplate(s.URL); err != nil {
		log.Fatal(err)
	}
	m.DelayConfig.Delay = *delay
	m.DelayConfig.MethodDelay = methodDelay
	fmt.Println("ready", s.URL.Host)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	<-c
	m.Remove()
}
