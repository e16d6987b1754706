// A minimal control plane on go-control-plane's snapshot cache, for benchmarks beside Realmgate's: some clusters with
// EDS and one endpoint each, for every proxy the same. `POST /change` moves the endpoint of the first cluster.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Every proxy has the same snapshot, as all edges of one Realmgate scope have.
type everyone struct{}

func (everyone) ID(*core.Node) string { return "everyone" }

type plane struct {
	cache     cache.SnapshotCache
	clusters  []types.Resource
	endpoints []types.Resource
	listeners []types.Resource
	lock      sync.Mutex
	version   int
}

func main() {
	xds := flag.String("xds", "127.0.0.1:18000", "where proxies connect")
	api := flag.String("api", "127.0.0.1:18080", "where POST /change is")
	count := flag.Int("clusters", 1000, "how many clusters")
	perCluster := flag.Int("endpoints", 1, "endpoints of each cluster")
	flag.Parse()

	p := &plane{cache: cache.NewSnapshotCache(true, everyone{}, nil)}
	for n := 1; n <= *count; n++ {
		name := fmt.Sprintf("game-%d", n)
		p.clusters = append(p.clusters, edsCluster(name))
		p.endpoints = append(p.endpoints, assignment(name, n, *perCluster, 7777))
	}
	p.listeners = []types.Resource{&listener.Listener{Name: "edge", Address: address("127.0.0.1", 7000)}}
	if err := p.publish(); err != nil {
		log.Fatal(err)
	}

	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/change", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.change(*perCluster); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	go func() { log.Fatal(http.ListenAndServe(*api, nil)) }()

	socket, err := net.Listen("tcp", *xds)
	if err != nil {
		log.Fatal(err)
	}
	serving := grpc.NewServer(grpc.MaxConcurrentStreams(1000))
	handler := server.NewServer(context.Background(), p.cache, nil)
	discovery.RegisterAggregatedDiscoveryServiceServer(serving, handler)
	log.Fatal(serving.Serve(socket))
}

func (p *plane) change(perCluster int) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	endpoints := append([]types.Resource(nil), p.endpoints...)
	endpoints[0] = assignment("game-1", 1, perCluster, uint32(8000+p.version%1000))
	p.endpoints = endpoints
	return p.publish()
}

// Only the type that changed has a new version, as a careful user of the library would have it.
func (p *plane) publish() error {
	p.version++
	snapshot := &cache.Snapshot{}
	snapshot.Resources[types.Cluster] = cache.NewResources("1", p.clusters)
	snapshot.Resources[types.Listener] = cache.NewResources("1", p.listeners)
	snapshot.Resources[types.Endpoint] = cache.NewResources(fmt.Sprint(p.version), p.endpoints)
	return p.cache.SetSnapshot(context.Background(), "everyone", snapshot)
}

func edsCluster(name string) *cluster.Cluster {
	source := &core.ConfigSource{
		ResourceApiVersion:    resource.DefaultAPIVersion,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
	limits := &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{}}}
	return &cluster.Cluster{
		Name:                 name,
		ConnectTimeout:       durationpb.New(5 * time.Second),
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: source},
		CircuitBreakers:      limits,
	}
}

func assignment(name string, n, perCluster int, port uint32) *endpoint.ClusterLoadAssignment {
	group := &endpoint.LocalityLbEndpoints{}
	for e := 0; e < perCluster; e++ {
		host := &endpoint.Endpoint{Address: address(fmt.Sprintf("10.%d.%d.%d", e, n/250, n%250+1), port)}
		group.LbEndpoints = append(group.LbEndpoints, &endpoint.LbEndpoint{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: host},
		})
	}
	return &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{group}}
}

func address(host string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: host, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}
