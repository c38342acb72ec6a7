package rds_test

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/rds"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const keyARN = "arn:aws:kms:us-east-1:111122223333:key/1"

type keys struct{}

func (keys) ResolveKey(id string) (string, error) {
	if id == "alias/data" {
		return keyARN, nil
	}
	return "", wire.Errorf(400, "NotFoundException", "no such key")
}

type database struct {
	Encrypted bool   `xml:"StorageEncrypted"`
	KeyID     string `xml:"KmsKeyId"`
}

// answer is what the test looks at of every answer.
type answer struct {
	Code      string     `xml:"Error>Code"`
	Instance  database   `xml:"CreateDBInstanceResult>DBInstance"`
	Cluster   database   `xml:"CreateDBClusterResult>DBCluster"`
	Instances []database `xml:"DescribeDBInstancesResult>DBInstances>DBInstance"`
	Clusters  []database `xml:"DescribeDBClustersResult>DBClusters>DBCluster"`
}

// A database is encrypted when that is asked for, by itself or by a key, or when
// its cluster is; and all of it is recorded, but for the password.
func TestDatabases(t *testing.T) {
	var records []string
	recorder := trail.New(trail.Config{Account: "111122223333", Region: "us-east-1", Publish: func(event json.RawMessage) {
		var e struct {
			Detail struct {
				EventName, ErrorCode                string
				RequestParameters, ResponseElements json.RawMessage
			}
		}
		if err := json.Unmarshal(event, &e); err != nil {
			t.Error(err)
		}
		d := e.Detail
		records = append(records, strings.Join([]string{d.EventName, d.ErrorCode, string(d.RequestParameters), string(d.ResponseElements)}, " "))
	}})
	defer recorder.Close()
	service := rds.New(rds.Config{Account: "111122223333", Region: "us-east-1", Keys: keys{}, Trail: recorder})
	caller := wire.Caller{AccountID: "111122223333", Type: "IAMUser", ARN: "arn:aws:iam::111122223333:user/ada", UserName: "ada"}
	call := func(action string, parameters ...string) answer {
		t.Helper()
		form := url.Values{"Action": {action}, "Version": {"2014-10-31"}}
		for i := 0; i < len(parameters); i += 2 {
			form.Set(parameters[i], parameters[i+1])
		}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r.WithContext(wire.WithRequest(r.Context(), caller, "request")))
		var a answer
		if err := xml.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		return a
	}
	instance := func(id string, more ...string) answer {
		t.Helper()
		return call("CreateDBInstance", append([]string{"DBInstanceIdentifier", id, "DBInstanceClass", "db.t3.micro", "Engine", "mysql"}, more...)...)
	}
	if got := instance("Plain", "MasterUserPassword", "open sesame"); got.Code != "" || got.Instance.Encrypted {
		t.Errorf("plain: %+v", got)
	}
	if got := instance("encrypted", "StorageEncrypted", "true"); !got.Instance.Encrypted || !strings.HasSuffix(got.Instance.KeyID, ":alias/aws/rds") {
		t.Errorf("encrypted: %+v", got)
	}
	if got := instance("keyed", "KmsKeyId", "alias/data"); !got.Instance.Encrypted || got.Instance.KeyID != keyARN {
		t.Errorf("under a key: %+v", got)
	}
	if got := call("CreateDBCluster", "DBClusterIdentifier", "cluster", "Engine", "aurora-mysql", "StorageEncrypted", "true", "KmsKeyId", "alias/data"); got.Cluster.KeyID != keyARN {
		t.Errorf("cluster: %+v", got)
	}
	if got := instance("member", "DBClusterIdentifier", "cluster"); !got.Instance.Encrypted || got.Instance.KeyID != keyARN {
		t.Errorf("in a cluster: %+v", got)
	}
	made := len(records)
	for _, tc := range []struct {
		code string
		got  answer
	}{
		{"DBInstanceAlreadyExists", instance("plain")},
		{"DBClusterAlreadyExistsFault", call("CreateDBCluster", "DBClusterIdentifier", "cluster", "Engine", "aurora-mysql")},
		{"DBClusterNotFoundFault", instance("lost", "DBClusterIdentifier", "none")},
		{"KMSKeyNotAccessibleFault", instance("lost", "KmsKeyId", "none")},
		{"InvalidParameterCombination", instance("lost", "KmsKeyId", "alias/data", "StorageEncrypted", "false")},
		{"MissingParameter", call("CreateDBInstance", "DBInstanceIdentifier", "x")},
		{"DBInstanceNotFound", call("DescribeDBInstances", "DBInstanceIdentifier", "none")},
		{"DBClusterNotFoundFault", call("DescribeDBClusters", "DBClusterIdentifier", "none")},
		{"InvalidAction", call("DeleteDBInstance")},
	} {
		if tc.got.Code != tc.code {
			t.Errorf("error %q, want %s", tc.got.Code, tc.code)
		}
	}
	if got := call("DescribeDBInstances"); len(got.Instances) != 4 {
		t.Errorf("described: %+v", got)
	}
	if got := call("DescribeDBClusters", "DBClusterIdentifier", "cluster"); len(got.Clusters) != 1 || !got.Clusters[0].Encrypted {
		t.Errorf("described: %+v", got)
	}
	caller.Allowed = func(string, string) bool { return false }
	if got := instance("denied"); got.Code != "AccessDenied" {
		t.Errorf("denied: %+v", got)
	}
	if len(records) != made+7 || records[made+6] != "CreateDBInstance AccessDenied null null" {
		t.Errorf("records of refusals: %q", records[made:])
	}
	if diff := cmp.Diff([]string{
		`CreateDBInstance  {"dBInstanceIdentifier":"Plain","dBInstanceClass":"db.t3.micro","engine":"mysql","masterUserPassword":"****"} {"dBInstanceIdentifier":"plain","dBInstanceArn":"arn:aws:rds:us-east-1:111122223333:db:plain","dBInstanceClass":"db.t3.micro","engine":"mysql","dBInstanceStatus":"creating","storageEncrypted":false}`,
		`CreateDBCluster  {"dBClusterIdentifier":"cluster","engine":"aurora-mysql","storageEncrypted":true,"kmsKeyId":"alias/data"} {"dBClusterIdentifier":"cluster","dBClusterArn":"arn:aws:rds:us-east-1:111122223333:cluster:cluster","engine":"aurora-mysql","status":"creating","storageEncrypted":true,"kmsKeyId":"` + keyARN + `"}`,
	}, []string{records[0], records[3]}); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
