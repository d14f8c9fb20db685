package harden

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// object is what is read of a Kubernetes object.
type object struct {
	file string
	node *yaml.Node
	text []byte

	Kind     string `yaml:"kind"`
	Metadata struct {
		Name        string            `yaml:"name"`
		Namespace   string            `yaml:"namespace"`
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
	Spec struct {
		Type     string         `yaml:"type"`
		Selector yaml.Node      `yaml:"selector"` // a map, or matchLabels
		External []string       `yaml:"externalIPs"`
		Ports    []servicePort  `yaml:"ports"`
		Rules    []ingressRule  `yaml:"rules"`
		Default  ingressBackend `yaml:"defaultBackend"`
		Template struct {
			Metadata struct {
				Labels map[string]string `yaml:"labels"`
			} `yaml:"metadata"`
			Spec podSpec `yaml:"spec"`
		} `yaml:"template"`
		Containers  []kubeContainer `yaml:"containers"`
		HostNetwork bool            `yaml:"hostNetwork"`
	} `yaml:"spec"`
	Items []yaml.Node `yaml:"items"`
}

type servicePort struct {
	Port       int       `yaml:"port"`
	TargetPort yaml.Node `yaml:"targetPort"`
	NodePort   int       `yaml:"nodePort"`
	Name       string    `yaml:"name"`
}

type podSpec struct {
	HostNetwork bool            `yaml:"hostNetwork"`
	Containers  []kubeContainer `yaml:"containers"`
}

type kubeContainer struct {
	Name  string `yaml:"name"`
	Image string `yaml:"image"`
	Ports []struct {
		ContainerPort int `yaml:"containerPort"`
		HostPort      int `yaml:"hostPort"`
	} `yaml:"ports"`
}

type ingressRule struct {
	Host string `yaml:"host"`
	HTTP struct {
		Paths []struct {
			Backend ingressBackend `yaml:"backend"`
		} `yaml:"paths"`
	} `yaml:"http"`
}

type ingressBackend struct {
	Service struct {
		Name string `yaml:"name"`
	} `yaml:"service"`
}

func (l *look) kubectl() string {
	return `kubectl --kubeconfig "` + l.Kubeconfig + `" get services,ingresses,networkpolicies,deployments,statefulsets,daemonsets -A -o json`
}

// readManifests reads the Kubernetes objects of a folder and of a cluster.
func (l *look) readManifests(out printout) {
	var objects []object
	if l.Manifests != "" {
		objects = l.manifestsIn(l.Manifests, 0)
		if len(objects) == 0 {
			l.unseen(l.Manifests, "no Kubernetes object is in it", "--manifests takes a folder of YAML files")
		}
	}
	l.judgeCluster(objects)
	if l.Kubeconfig != "" {
		text, err := out.get(l.kubectl())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			l.unseen("the cluster of "+l.Kubeconfig, "kubectl is not here", "install kubectl, or give its objects with --manifests")
		case err != nil:
			l.unseen("the cluster of "+l.Kubeconfig, firstLine(err.Error()), "look at kubectl get services -A")
		default:
			l.judgeCluster(objectsOf("cluster", text))
		}
	}
}

func (l *look) manifestsIn(dir string, depth int) (objects []object) {
	for _, name := range l.list(dir) {
		file := path.Join(dir, name)
		switch ext := path.Ext(name); {
		case l.isDir(file) && depth < 6 && name[0] != '.':
			objects = append(objects, l.manifestsIn(file, depth+1)...)
		case ext == ".yaml" || ext == ".yml" || ext == ".json":
			if text, ok := l.read(file); ok {
				found := objectsOf(file, text)
				if found == nil && bytes.Contains(text, []byte("apiVersion:")) {
					l.unseen(file, "it is no YAML that can be read, a template maybe", "helm template, and give what it prints")
				}
				objects = append(objects, found...)
			}
		}
	}
	return objects
}

// objectsOf reads the documents of a file, and the items of a list.
func objectsOf(file string, text []byte) (objects []object) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	for range 1000 {
		var doc yaml.Node
		if err := d.Decode(&doc); err != nil {
			return objects
		}
		if len(doc.Content) == 0 {
			continue
		}
		o := object{file: file, node: doc.Content[0], text: text}
		if doc.Content[0].Decode(&o) != nil || o.Kind == "" {
			continue
		}
		if len(o.Items) == 0 {
			objects = append(objects, o)
			continue
		}
		for i := range o.Items {
			item := object{file: file, node: &o.Items[i], text: text}
			if o.Items[i].Decode(&item) == nil {
				objects = append(objects, item)
			}
		}
	}
	return objects
}

func (o *object) pods() podSpec {
	if o.Kind == "Pod" {
		return podSpec{o.Spec.HostNetwork, o.Spec.Containers}
	}
	return o.Spec.Template.Spec
}

func (o *object) labels() map[string]string {
	if o.Kind == "Pod" {
		labels := map[string]string{}
		if n := child(child(o.node, "metadata"), "labels"); n != nil {
			_ = n.Decode(&labels) // what is no map has no labels
		}
		return labels
	}
	return o.Spec.Template.Metadata.Labels
}

func (o *object) at(keys ...string) Place {
	n, line := o.node, o.node.Line
	for _, k := range keys {
		if n = child(n, k); n == nil {
			break
		}
		line = n.Line
	}
	if o.file == "cluster" {
		return Place{File: "cluster: " + strings.ToLower(o.Kind) + " " + o.namespace() + "/" + o.Metadata.Name}
	}
	return Place{o.file, line}
}

func (o *object) namespace() string {
	if o.Metadata.Namespace == "" {
		return "default"
	}
	return o.Metadata.Namespace
}

// judgeCluster finds the services and ingresses that lead to Ollama's pods.
func (l *look) judgeCluster(objects []object) {
	ollama := func(labels map[string]string, namespace string) bool {
		return slices.ContainsFunc(objects, func(o object) bool {
			if o.namespace() != namespace || !slices.ContainsFunc(o.pods().Containers, func(c kubeContainer) bool { return ollamaImage(c.Image) }) {
				return false
			}
			have := o.labels()
			for k, v := range labels {
				if have[k] != v {
					return false
				}
			}
			return len(labels) > 0
		})
	}
	services := map[string]bool{}
	for i := range objects {
		o := &objects[i]
		pods := o.pods()
		for _, c := range pods.Containers {
			if !ollamaImage(c.Image) {
				continue
			}
			l.Ollama = append(l.Ollama, strings.ToLower(o.Kind)+" "+o.Metadata.Name)
			where := []string{"spec", "template", "spec", "hostNetwork"}
			if o.Kind == "Pod" {
				where = []string{"spec", "hostNetwork"}
			}
			if pods.HostNetwork {
				l.cause(o.cluster(Cause{Kind: KubeHost, Place: o.at(where...), Says: "hostNetwork: true", Means: strings.ToLower(o.Kind) + " " + o.Metadata.Name + " has Ollama listen on its node's addresses", edit: o.scalar("false", where...)}))
			}
			for j, p := range c.Ports {
				if p.HostPort != 0 {
					at := o.at("spec", "template", "spec", "containers")
					if o.Kind == "Pod" {
						at = o.at("spec", "containers")
					}
					for n, ln := range linesOf(o.text) {
						if strings.Contains(ln.text, "hostPort: "+strconv.Itoa(p.HostPort)) && n+1 >= at.Line && o.file != "cluster" {
							at.Line = n + 1
							break
						}
					}
					_ = j
					line := at.Line
					l.cause(o.cluster(Cause{
						Kind: KubeHost, Place: at, Says: "hostPort: " + strconv.Itoa(p.HostPort), Means: strings.ToLower(o.Kind) + " " + o.Metadata.Name + " opens Ollama on its node's addresses",
						edit: func(text []byte) ([]byte, error) {
							lines := linesOf(text)
							if line < 1 || line > len(lines) || strings.HasPrefix(strings.TrimSpace(lines[line-1].text), "-") || !strings.HasPrefix(strings.TrimSpace(lines[line-1].text), "hostPort:") {
								return nil, errors.New("hostPort is written in a way that is not changed here")
							}
							return replaceLine(line, lines[line-1].text)(text)
						},
					}))
				}
			}
		}
		if o.Kind != "Service" {
			continue
		}
		selector := map[string]string{}
		_ = o.Spec.Selector.Decode(&selector) // matchLabels are no strings, and no service's
		leads := ollama(selector, o.namespace())
		for _, p := range o.Spec.Ports {
			leads = leads || p.Port == Port || p.TargetPort.Value == strconv.Itoa(Port)
		}
		if !leads {
			continue
		}
		services[o.namespace()+"/"+o.Metadata.Name] = true
		switch {
		case o.Spec.Type == "LoadBalancer" && internalBalancer(o.Metadata.Annotations):
			c := o.cluster(Cause{Kind: KubeService, Place: o.at("spec", "type"), Says: "type: LoadBalancer (internal)", Means: "service " + o.Metadata.Name + " takes calls from the whole private network", edit: o.scalar("ClusterIP", "spec", "type")})
			c.Doors[0].Far = OnNetwork
			l.cause(c)
		case o.Spec.Type == "LoadBalancer", o.Spec.Type == "NodePort":
			l.cause(o.cluster(Cause{Kind: KubeService, Place: o.at("spec", "type"), Says: "type: " + o.Spec.Type, Means: "service " + o.Metadata.Name + " takes calls from outside the cluster", edit: o.closeService()}))
		case len(o.Spec.External) > 0:
			l.cause(o.cluster(Cause{Kind: KubeService, Place: o.at("spec", "externalIPs"), Says: "externalIPs: " + strings.Join(o.Spec.External, ", "), Means: "service " + o.Metadata.Name + " takes calls from outside the cluster", manual: "take externalIPs out of service " + o.Metadata.Name}))
		}
	}
	for i := range objects {
		o := &objects[i]
		if o.Kind != "Ingress" {
			continue
		}
		names := []string{o.Spec.Default.Service.Name}
		for _, r := range o.Spec.Rules {
			for _, p := range r.HTTP.Paths {
				names = append(names, p.Backend.Service.Name)
			}
		}
		for _, name := range names {
			if !services[o.namespace()+"/"+name] {
				continue
			}
			if authAnnotation(o.Metadata.Annotations) {
				continue
			}
			l.cause(o.cluster(Cause{
				Kind: KubeIngress, Place: o.at("spec"), Says: "ingress " + o.Metadata.Name, Means: "ingress " + o.Metadata.Name + " leads strangers to service " + name + " and asks for no credentials",
				manual: "have ingress " + o.Metadata.Name + " lead to the gate instead: gatehouse deploy helm",
			}))
			break
		}
	}
}

func internalBalancer(annotations map[string]string) bool {
	for k, v := range annotations {
		if strings.Contains(k, "load-balancer") && (strings.Contains(k, "internal") && v != "false" || strings.EqualFold(v, "internal")) {
			return true
		}
	}
	return false
}

func authAnnotation(annotations map[string]string) bool {
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		if strings.Contains(k, "auth-url") || strings.Contains(k, "auth-type") || strings.Contains(k, "auth-tls-secret") || strings.Contains(k, "/middlewares") && strings.Contains(strings.ToLower(annotations[k]), "auth") {
			return true
		}
	}
	return false
}

// cluster is a cause whose callers do not come by an address of this machine.
func (o *object) cluster(c Cause) Cause {
	c.Doors = []Door{{Far: OnInternet}}
	c.Live = o.file == "cluster" // a manifest says what will be, not what is
	if o.file == "cluster" {
		c.edit = nil
		if c.Kind == KubeService && c.manual == "" {
			c.manual = "kubectl -n " + o.namespace() + " patch service " + o.Metadata.Name + ` -p '{"spec":{"type":"ClusterIP"}}'`
		}
	} else {
		c.manual = "kubectl apply -f " + o.file
	}
	return c
}

// scalar changes a value in a manifest.
func (o *object) scalar(to string, keys ...string) func([]byte) ([]byte, error) {
	n := o.node
	for _, k := range keys {
		if n = child(n, k); n == nil {
			return nil
		}
	}
	return editScalar(n, func(string) string { return to })
}

// closeService has a service answer within the cluster alone, where a policy lets
// nobody but its own namespace in.
func (o *object) closeService() func([]byte) ([]byte, error) {
	edit := o.scalar("ClusterIP", "spec", "type")
	if edit == nil {
		return nil
	}
	selector := map[string]string{}
	_ = o.Spec.Selector.Decode(&selector) // checked below by its length
	name, namespace := o.Metadata.Name, o.Metadata.Namespace
	return func(text []byte) ([]byte, error) {
		text, err := edit(text)
		if err != nil {
			return nil, err
		}
		// A node's port is not allowed in a ClusterIP.
		var kept []string
		for l := range strings.Lines(string(text)) {
			if !strings.HasPrefix(strings.TrimSpace(l), "nodePort:") {
				kept = append(kept, l)
			}
		}
		after := strings.Join(kept, "")
		if len(selector) == 0 || strings.Contains(after, "kind: NetworkPolicy") {
			return []byte(after), nil
		}
		var b strings.Builder
		b.WriteString(strings.TrimRight(after, "\n"))
		b.WriteString("\n---\n# Who may call Ollama: pods of this namespace, such as the gate.\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: " + name + "-callers\n")
		if namespace != "" {
			b.WriteString("  namespace: " + namespace + "\n")
		}
		b.WriteString("spec:\n  podSelector:\n    matchLabels:\n")
		for _, k := range slices.Sorted(maps.Keys(selector)) {
			b.WriteString("      " + k + ": " + strconv.Quote(selector[k]) + "\n")
		}
		b.WriteString("  policyTypes: [Ingress]\n  ingress:\n    - from:\n        - podSelector: {}\n      ports:\n        - port: " + strconv.Itoa(Port) + "\n")
		return []byte(b.String()), nil
	}
}
