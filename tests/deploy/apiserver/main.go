// The API server of Kubernetes and, in the same process, the etcd in which it keeps its objects.
//
//	kube-apiserver FOLDER [FLAG ...]
//
// FOLDER exists, and has nothing of an earlier etcd; the flags are those of kube-apiserver.
package main

import (
	"log"
	"net/url"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	etcd := startEtcd(os.Args[1])
	command := app.NewAPIServerCommand()
	command.SetArgs(append(os.Args[2:], "--etcd-servers="+etcd))
	os.Exit(cli.Run(command))
}

// startEtcd returns the address of a server that only those who may enter the folder reach.
func startEtcd(folder string) string {
	clients := url.URL{Scheme: "unix", Path: filepath.Join(folder, "etcd.sock")}
	peers := url.URL{Scheme: "unix", Path: filepath.Join(folder, "etcd-peers.sock")}
	config := embed.NewConfig()
	config.Dir = filepath.Join(folder, "etcd")
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	server, err := embed.StartEtcd(config)
	if err != nil {
		log.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	return clients.String()
}
