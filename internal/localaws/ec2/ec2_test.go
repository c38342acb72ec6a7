package ec2_test

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/ec2"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	keyARN = "arn:aws:kms:us-east-1:111122223333:key/1"
	ebsARN = "arn:aws:kms:us-east-1:111122223333:alias/aws/ebs"
)

type keys struct{}

func (keys) ResolveKey(id string) (string, error) {
	if id == "alias/data" {
		return keyARN, nil
	}
	return "", wire.Errorf(400, "NotFoundException", "no such key")
}

// world is an EC2 with the records of what was done to it.
type world struct {
	*ec2.Service
	t       *testing.T
	caller  wire.Caller
	records []record
}

type record struct {
	Name     string          `json:"eventName"`
	Code     string          `json:"errorCode"`
	Asked    json.RawMessage `json:"requestParameters"`
	Answered json.RawMessage `json:"responseElements"`
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, caller: wire.Caller{AccountID: "111122223333", Type: "IAMUser", ARN: "arn:aws:iam::111122223333:user/ada", UserName: "ada"}}
	recorder := trail.New(trail.Config{Account: "111122223333", Region: "us-east-1", Publish: func(event json.RawMessage) {
		var e struct{ Detail record }
		if err := json.Unmarshal(event, &e); err != nil {
			t.Error(err)
		}
		w.records = append(w.records, e.Detail)
	}})
	t.Cleanup(recorder.Close)
	w.Service = ec2.New(ec2.Config{Account: "111122223333", Region: "us-east-1", Keys: keys{}, Trail: recorder})
	return w
}

// answer is what the tests look at of every answer.
type answer struct {
	XMLName   xml.Name
	Code      string `xml:"Errors>Error>Code"`
	VolumeID  string `xml:"volumeId"`
	Encrypted bool   `xml:"encrypted"`
	KeyID     string `xml:"kmsKeyId"`
	Default   bool   `xml:"ebsEncryptionByDefault"`
	Volumes   []struct {
		ID     string `xml:"volumeId"`
		Status string `xml:"status"`
	} `xml:"volumeSet>item"`
}

// call calls an action with parameters given as name, value, name, value….
func (w *world) call(action string, parameters ...string) answer {
	w.t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r.WithContext(wire.WithRequest(r.Context(), w.caller, "request")))
	var a answer
	if err := xml.Unmarshal(rec.Body.Bytes(), &a); err != nil {
		w.t.Fatalf("%s: %v", rec.Body, err)
	}
	if (rec.Code == http.StatusOK) != (a.XMLName.Local == action+"Response" && a.Code == "") {
		w.t.Errorf("%s: %d %s", action, rec.Code, rec.Body)
	}
	return a
}

// A volume is encrypted when that is asked for, or by default.
func TestVolumes(t *testing.T) {
	w := newWorld(t)
	zone := []string{"AvailabilityZone", "us-east-1a", "Size", "8"}
	var ids []string
	for _, tc := range []struct {
		name       string
		parameters []string
		code       string
		encrypted  bool
		key        string
	}{
		{"plain", nil, "", false, ""},
		{"encrypted", []string{"Encrypted", "true"}, "", true, ebsARN},
		{"under a key", []string{"Encrypted", "true", "KmsKeyId", "alias/data"}, "", true, keyARN},
		{"under an unknown key", []string{"Encrypted", "true", "KmsKeyId", "nope"}, "", true, "nope"},
		{"under a key, and not", []string{"KmsKeyId", "alias/data"}, "InvalidParameterDependency", false, ""},
		{"without a zone", []string{"AvailabilityZone", ""}, "MissingParameter", false, ""},
		{"of no size", []string{"Size", ""}, "MissingParameter", false, ""},
	} {
		got := w.call("CreateVolume", append(zone[:4:4], tc.parameters...)...)
		if got.Code != tc.code || got.Encrypted != tc.encrypted || got.KeyID != tc.key {
			t.Errorf("%s: %+v", tc.name, got)
		}
		if got.VolumeID != "" {
			ids = append(ids, got.VolumeID)
		}
	}
	if got := w.call("EnableEbsEncryptionByDefault"); !got.Default {
		t.Errorf("enabled: %+v", got)
	}
	if got := w.call("CreateVolume", zone...); !got.Encrypted || got.KeyID != ebsARN {
		t.Errorf("by default: %+v", got)
	}
	if w.call("DisableEbsEncryptionByDefault"); w.call("GetEbsEncryptionByDefault").Default {
		t.Error("still encrypted by default")
	}
	if got := w.call("DescribeVolumes"); len(got.Volumes) != 5 || got.Volumes[0].Status != "available" {
		t.Errorf("described: %+v", got)
	}
	if got := w.call("DescribeVolumes", "VolumeId.1", ids[1]); len(got.Volumes) != 1 || got.Volumes[0].ID != ids[1] {
		t.Errorf("described one: %+v", got)
	}
	for code, parameters := range map[string][]string{"InvalidVolume.NotFound": {"VolumeId.1", "vol-0"}, "InvalidParameterValue": {"Filter.1.Name", "x"}} {
		if got := w.call("DescribeVolumes", parameters...).Code; got != code {
			t.Errorf("%v: %s", parameters, got)
		}
	}
	if got := w.call("RunInstances").Code; got != "InvalidAction" {
		t.Errorf("not modelled: %s", got)
	}
}

func TestRecords(t *testing.T) {
	w := newWorld(t)
	id := w.call("CreateVolume", "AvailabilityZone", "us-east-1a", "Size", "8", "Encrypted", "true", "KmsKeyId", "alias/data").VolumeID
	w.call("CreateVolume", "AvailabilityZone", "us-east-1a")
	w.call("DisableEbsEncryptionByDefault")
	w.call("GetEbsEncryptionByDefault")
	w.caller.Allowed = func(string, string) bool { return false }
	w.call("CreateVolume", "AvailabilityZone", "us-east-1a")
	w.call("DescribeVolumes")
	var got []string
	for _, r := range w.records {
		answered := string(r.Answered)
		if before, after, ok := strings.Cut(answered, `"createTime":`); ok {
			_, rest, _ := strings.Cut(after, ",")
			answered = before + rest
		}
		got = append(got, strings.Join([]string{r.Name, r.Code, string(r.Asked), strings.ReplaceAll(answered, id, "ID")}, " "))
	}
	if diff := cmp.Diff([]string{
		`CreateVolume  {"size":"8","zone":"us-east-1a","encrypted":true,"kmsKeyId":"alias/data"} {"requestId":"request","volumeId":"ID","size":"8","zone":"us-east-1a","status":"creating","volumeType":"gp2","encrypted":true,"kmsKeyId":"` + keyARN + `"}`,
		`CreateVolume Client.MissingParameter {"zone":"us-east-1a"} null`,
		`DisableEbsEncryptionByDefault  {"DisableEbsEncryptionByDefaultRequest":{}} {"DisableEbsEncryptionByDefaultResponse":{"xmlns":"http://ec2.amazonaws.com/doc/2016-11-15/","requestId":"request","ebsEncryptionByDefault":false}}`,
		`CreateVolume Client.UnauthorizedOperation null null`,
	}, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
