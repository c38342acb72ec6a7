// Package rds is what encryption has to do with in Amazon RDS: DB instances and
// clusters, which are made and listed and nothing else.
//
// Of the parameters those that name a database, its kind and its encryption
// count; the others are taken and forgotten. No data key is asked of KMS.
package rds

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const namespace = "http://rds.amazonaws.com/doc/2014-10-31/"

// Keys is what RDS asks of KMS; *kms.Service is one.
type Keys interface {
	ResolveKey(keyID string) (arn string, err error)
}

// Config says where a Service is, and whom it works with.
type Config struct {
	Account, Region string
	Keys            Keys
	// Trail records what is made.
	Trail *trail.Recorder
}

// Service is RDS of one account in one Region: an http.Handler that expects
// wire.WithRequest's values in the request's context.
type Service struct {
	config     Config
	operations map[string]wire.QueryOperation

	mu        sync.Mutex
	instances []instance
	clusters  []cluster
}

// New returns a Service without databases.
func New(c Config) *Service {
	s := &Service{config: c}
	s.operations = map[string]wire.QueryOperation{
		"CreateDBCluster":     s.recorded("CreateDBCluster", s.createCluster),
		"CreateDBInstance":    s.recorded("CreateDBInstance", s.createInstance),
		"DescribeDBClusters":  s.describeClusters,
		"DescribeDBInstances": s.describeInstances,
	}
	return s
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeQuery(w, r, namespace, s.operations)
}

func (s *Service) arn(kind, name string) string {
	return "arn:aws:rds:" + s.config.Region + ":" + s.config.Account + ":" + kind + ":" + name
}

func (s *Service) authorize(ctx context.Context, action, resource string) error {
	if c := wire.CallerFrom(ctx); !c.May("rds:"+action, resource) {
		return wire.Errorf(http.StatusForbidden, "AccessDenied", "User: %s is not authorized to perform: rds:%s on resource: %s", c.ARN, action, resource)
	}
	return nil
}

// parameters is a request as CloudTrail shows it, which names what begins with DB
// in its own way and hides the password.
type parameters struct {
	Instance         string `trail:"dBInstanceIdentifier"`
	Cluster          string `trail:"dBClusterIdentifier"`
	Class            string `trail:"dBInstanceClass"`
	Engine           string `trail:"engine"`
	MasterUsername   string `trail:"masterUsername"`
	MasterPassword   string `trail:"masterUserPassword"`
	StorageEncrypted *bool  `trail:"storageEncrypted"`
	KMSKeyID         string `trail:"kmsKeyId"`
}

func parametersOf(form url.Values) parameters {
	p := parameters{
		Instance: form.Get("DBInstanceIdentifier"), Cluster: form.Get("DBClusterIdentifier"), Class: form.Get("DBInstanceClass"),
		Engine: form.Get("Engine"), MasterUsername: form.Get("MasterUsername"), KMSKeyID: form.Get("KmsKeyId"),
	}
	if form.Has("MasterUserPassword") {
		p.MasterPassword = "****"
	}
	if form.Has("StorageEncrypted") {
		p.StorageEncrypted = new(form.Get("StorageEncrypted") == "true")
	}
	return p
}

// encryption returns whether the storage is encrypted and under which key. A key
// asks for encryption by itself.
func (s *Service) encryption(p parameters) (encrypted bool, keyARN string, err error) {
	switch {
	case p.KMSKeyID != "" && p.StorageEncrypted != nil && !*p.StorageEncrypted:
		return false, "", wire.Errorf(400, "InvalidParameterCombination", "KmsKeyId is valid with encrypted storage only.")
	case p.KMSKeyID != "":
		keyARN, err = s.config.Keys.ResolveKey(p.KMSKeyID)
		if err != nil {
			return false, "", wire.Errorf(400, "KMSKeyNotAccessibleFault", "The specified KMS key [%s] does not exist, is not enabled or you do not have permissions to access it.", p.KMSKeyID)
		}
		return true, keyARN, nil
	case p.StorageEncrypted != nil && *p.StorageEncrypted:
		// AWS names the key of that alias, which does not exist here.
		return true, "arn:aws:kms:" + s.config.Region + ":" + s.config.Account + ":alias/aws/rds", nil
	}
	return false, "", nil
}

// instance and cluster are as the API and CloudTrail answer with them.
type instance struct {
	ID        string `xml:"DBInstanceIdentifier"`
	ARN       string `xml:"DBInstanceArn"`
	Class     string `xml:"DBInstanceClass"`
	Engine    string
	Status    string `xml:"DBInstanceStatus"`
	Cluster   string `xml:"DBClusterIdentifier,omitempty"`
	Encrypted bool   `xml:"StorageEncrypted"`
	KMSKeyID  string `xml:"KmsKeyId,omitempty"`
}

type cluster struct {
	ID        string `xml:"DBClusterIdentifier"`
	ARN       string `xml:"DBClusterArn"`
	Engine    string
	Status    string
	Encrypted bool   `xml:"StorageEncrypted"`
	KMSKeyID  string `xml:"KmsKeyId,omitempty"`
}

type instanceOutput struct {
	Instance instance `xml:"DBInstance"`
}

type clusterOutput struct {
	Cluster cluster `xml:"DBCluster"`
}

// recorded makes an operation of one whose calls are recorded. CloudTrail shows
// what was made without the element around it.
func (s *Service) recorded(name string, operation wire.QueryOperation) wire.QueryOperation {
	return func(ctx context.Context, form url.Values) (any, error) {
		out, err := operation(ctx, form)
		c := trail.Call{
			Service: "rds", Operation: name, Caller: wire.CallerFrom(ctx), RequestID: wire.RequestIDFrom(ctx),
			Parameters: parametersOf(form), Err: err,
		}
		switch made := out.(type) {
		case instanceOutput:
			c.Response = made.Instance
		case clusterOutput:
			c.Response = made.Cluster
		}
		s.config.Trail.Call(c)
		s.config.Trail.Flush()
		return out, err
	}
}

func missing(name string) error {
	return wire.Errorf(400, "MissingParameter", "The request must contain the parameter %s", name)
}

// createInstance makes an instance; one in a cluster is encrypted as the cluster is.
func (s *Service) createInstance(ctx context.Context, form url.Values) (any, error) {
	p := parametersOf(form)
	for name, value := range map[string]string{"DBInstanceIdentifier": p.Instance, "DBInstanceClass": p.Class, "Engine": p.Engine} {
		if value == "" {
			return nil, missing(name)
		}
	}
	id := strings.ToLower(p.Instance)
	i := instance{ID: id, ARN: s.arn("db", id), Class: p.Class, Engine: p.Engine, Status: "creating", Cluster: p.Cluster}
	if err := s.authorize(ctx, "CreateDBInstance", i.ARN); err != nil {
		return nil, err
	}
	var err error
	if i.Encrypted, i.KMSKeyID, err = s.encryption(p); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.instances, func(other instance) bool { return other.ID == i.ID }) {
		return nil, wire.Errorf(400, "DBInstanceAlreadyExists", "DB instance already exists")
	}
	if i.Cluster != "" {
		at := slices.IndexFunc(s.clusters, func(c cluster) bool { return c.ID == i.Cluster })
		if at < 0 {
			return nil, wire.Errorf(http.StatusNotFound, "DBClusterNotFoundFault", "DBCluster %s not found", i.Cluster)
		}
		i.Encrypted, i.KMSKeyID = s.clusters[at].Encrypted, s.clusters[at].KMSKeyID
	}
	s.instances = append(s.instances, i)
	return instanceOutput{i}, nil
}

func (s *Service) createCluster(ctx context.Context, form url.Values) (any, error) {
	p := parametersOf(form)
	for name, value := range map[string]string{"DBClusterIdentifier": p.Cluster, "Engine": p.Engine} {
		if value == "" {
			return nil, missing(name)
		}
	}
	id := strings.ToLower(p.Cluster)
	c := cluster{ID: id, ARN: s.arn("cluster", id), Engine: p.Engine, Status: "creating"}
	if err := s.authorize(ctx, "CreateDBCluster", c.ARN); err != nil {
		return nil, err
	}
	var err error
	if c.Encrypted, c.KMSKeyID, err = s.encryption(p); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.clusters, func(other cluster) bool { return other.ID == c.ID }) {
		return nil, wire.Errorf(400, "DBClusterAlreadyExistsFault", "DB Cluster already exists")
	}
	s.clusters = append(s.clusters, c)
	return clusterOutput{c}, nil
}

type instancesOutput struct {
	Instances []instance `xml:"DBInstances>DBInstance"`
}

func (s *Service) describeInstances(ctx context.Context, form url.Values) (any, error) {
	if err := s.authorize(ctx, "DescribeDBInstances", "*"); err != nil {
		return nil, err
	}
	var out instancesOutput
	id := form.Get("DBInstanceIdentifier")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.instances {
		if id == "" || i.ID == id {
			i.Status = "available"
			out.Instances = append(out.Instances, i)
		}
	}
	if id != "" && len(out.Instances) == 0 {
		return nil, wire.Errorf(http.StatusNotFound, "DBInstanceNotFound", "DBInstance %s not found.", id)
	}
	return out, nil
}

type clustersOutput struct {
	Clusters []cluster `xml:"DBClusters>DBCluster"`
}

func (s *Service) describeClusters(ctx context.Context, form url.Values) (any, error) {
	if err := s.authorize(ctx, "DescribeDBClusters", "*"); err != nil {
		return nil, err
	}
	var out clustersOutput
	id := form.Get("DBClusterIdentifier")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clusters {
		if id == "" || c.ID == id {
			c.Status = "available"
			out.Clusters = append(out.Clusters, c)
		}
	}
	if id != "" && len(out.Clusters) == 0 {
		return nil, wire.Errorf(http.StatusNotFound, "DBClusterNotFoundFault", "DBCluster %s not found.", id)
	}
	return out, nil
}
