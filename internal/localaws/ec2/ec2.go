// Package ec2 is what encryption has to do with in Amazon EC2: EBS volumes, which
// are made and listed and nothing else, and the setting that encrypts new ones.
//
// Of CreateVolume's parameters those about size, kind and encryption count; the
// others are taken and forgotten. No data key is asked of KMS for a volume.
package ec2

import (
	"bytes"
	"context"
	"encoding/xml"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

// Keys is what EC2 asks of KMS; *kms.Service is one.
type Keys interface {
	ResolveKey(keyID string) (arn string, err error)
}

// Config says where a Service is, and whom it works with.
type Config struct {
	Account, Region string
	Keys            Keys
	// Trail records what changes.
	Trail *trail.Recorder
}

// Service is EC2 of one account in one Region: an http.Handler that expects
// wire.WithRequest's values in the request's context.
type Service struct {
	config     Config
	operations map[string]wire.QueryOperation

	mu        sync.Mutex
	volumes   []volume
	encrypted bool // EBS encryption by default
}

// New returns a Service without volumes, where encryption by default is off.
func New(c Config) *Service {
	s := &Service{config: c}
	s.operations = map[string]wire.QueryOperation{
		"CreateVolume":                  s.createVolume,
		"DescribeVolumes":               s.describeVolumes,
		"DisableEbsEncryptionByDefault": s.setDefault("DisableEbsEncryptionByDefault", false),
		"EnableEbsEncryptionByDefault":  s.setDefault("EnableEbsEncryptionByDefault", true),
		"GetEbsEncryptionByDefault":     s.getDefault,
	}
	return s
}

// EncryptByDefault sets whether new volumes are encrypted where nobody asks for it, as
// EnableEbsEncryptionByDefault does, without a record.
func (s *Service) EncryptByDefault(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.encrypted = on
}

// ServeHTTP answers one request of EC2's own query protocol, whose answers have
// no result element.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		writeError(w, r, wire.Errorf(400, "MalformedQueryString", "%v", err))
		return
	}
	name := r.Form.Get("Action")
	operation, ok := s.operations[name]
	if !ok {
		writeError(w, r, wire.Errorf(400, "InvalidAction", "localaws does not model the action %q", name))
		return
	}
	out, err := s.call(r.Context(), name, r.Form, operation)
	if err != nil {
		writeError(w, r, err)
		return
	}
	var b bytes.Buffer
	if err := xml.NewEncoder(&b).EncodeElement(out, xml.StartElement{Name: xml.Name{Space: namespace, Local: name + "Response"}}); err != nil {
		writeError(w, r, err)
		return
	}
	wire.WriteXML(w, r, http.StatusOK, b.Bytes())
}

func (s *Service) call(ctx context.Context, name string, form url.Values, operation wire.QueryOperation) (any, error) {
	if c := wire.CallerFrom(ctx); !c.May("ec2:"+name, "*") {
		err := wire.Errorf(http.StatusForbidden, "UnauthorizedOperation", "You are not authorized to perform this operation. User: %s is not authorized to perform: ec2:%s on resource: *", c.ARN, name)
		if !strings.HasPrefix(name, "Describe") && !strings.HasPrefix(name, "Get") {
			s.record(ctx, name, nil, nil, err)
		}
		return nil, err
	}
	return operation(ctx, form)
}

// answer is what every answer has.
type answer struct {
	RequestID string `xml:"requestId"`
}

func answerTo(ctx context.Context) answer { return answer{wire.RequestIDFrom(ctx)} }

func writeError(w http.ResponseWriter, r *http.Request, err error) {
	type failure struct {
		XMLName   xml.Name `xml:"Response"`
		Code      string   `xml:"Errors>Error>Code"`
		Message   string   `xml:"Errors>Error>Message"`
		RequestID string
	}
	e := wire.AsError(err)
	doc, _ := xml.Marshal(failure{Code: e.Code, Message: e.Message, RequestID: wire.RequestIDFrom(r.Context())}) // strings always encode
	wire.WriteXML(w, r, e.HTTPStatus(), doc)
}

// record tells CloudTrail of a change. EC2's errors say there whose fault they are.
func (s *Service) record(ctx context.Context, name string, parameters, response any, err *wire.Error) {
	c := trail.Call{
		Service: "ec2", Operation: name, Caller: wire.CallerFrom(ctx), RequestID: wire.RequestIDFrom(ctx),
		Parameters: parameters, Response: response,
	}
	if err != nil {
		c.Err = wire.Errorf(err.Status, "Client."+err.Code, "%s", err.Message)
	}
	s.config.Trail.Call(c)
	s.config.Trail.Flush()
}

// volume is a volume as the API answers with it.
type volume struct {
	ID         string    `xml:"volumeId"`
	Size       int       `xml:"size"`
	SnapshotID string    `xml:"snapshotId"`
	Zone       string    `xml:"availabilityZone"`
	Status     string    `xml:"status"`
	Created    time.Time `xml:"createTime"`
	Encrypted  bool      `xml:"encrypted"`
	KMSKeyID   string    `xml:"kmsKeyId,omitempty"`
	Type       string    `xml:"volumeType"`
}

// volumeParameters is a request for a volume as CloudTrail shows it. Which name
// the key has there is not documented; this is the API's own.
type volumeParameters struct {
	Size       string `trail:"size"`
	Zone       string `trail:"zone"`
	VolumeType string `trail:"volumeType"`
	SnapshotID string `trail:"snapshotId"`
	Encrypted  *bool  `trail:"encrypted"`
	KMSKeyID   string `trail:"kmsKeyId"`
}

// volumeElements is the answer as CloudTrail shows it.
type volumeElements struct {
	RequestID  string `trail:"requestId"`
	VolumeID   string `trail:"volumeId"`
	Size       string `trail:"size"`
	Zone       string `trail:"zone"`
	Status     string `trail:"status"`
	CreateTime int64  `trail:"createTime"` // in milliseconds since 1970
	VolumeType string `trail:"volumeType"`
	Encrypted  bool   `trail:"encrypted"`
	KMSKeyID   string `trail:"kmsKeyId"`
}

type createVolumeOutput struct {
	answer
	volume
}

func (s *Service) createVolume(ctx context.Context, form url.Values) (any, error) {
	p := volumeParameters{
		Size: form.Get("Size"), Zone: form.Get("AvailabilityZone"), VolumeType: form.Get("VolumeType"),
		SnapshotID: form.Get("SnapshotId"), KMSKeyID: form.Get("KmsKeyId"),
	}
	if form.Has("Encrypted") {
		p.Encrypted = new(form.Get("Encrypted") == "true")
	}
	v, err := s.newVolume(p)
	if err != nil {
		s.record(ctx, "CreateVolume", p, nil, err)
		return nil, err
	}
	s.record(ctx, "CreateVolume", p, volumeElements{
		RequestID: wire.RequestIDFrom(ctx), VolumeID: v.ID, Size: strconv.Itoa(v.Size), Zone: v.Zone, Status: v.Status,
		CreateTime: v.Created.UnixMilli(), VolumeType: v.Type, Encrypted: v.Encrypted, KMSKeyID: v.KMSKeyID,
	}, nil)
	return createVolumeOutput{answerTo(ctx), v}, nil
}

// newVolume makes a volume. It is encrypted when that is asked for, or by default.
func (s *Service) newVolume(p volumeParameters) (volume, *wire.Error) {
	v := volume{
		ID: "vol-0" + strings.ReplaceAll(wire.NewUUID(), "-", "")[:16], SnapshotID: p.SnapshotID, Zone: p.Zone,
		Status: "creating", Created: time.Now().UTC().Truncate(time.Millisecond), Type: p.VolumeType, KMSKeyID: p.KMSKeyID,
	}
	if v.Zone == "" {
		return v, wire.Errorf(400, "MissingParameter", "The request must contain the parameter availabilityZone")
	}
	if v.Type == "" {
		v.Type = "gp2"
	}
	var err error
	if v.Size, err = strconv.Atoi(p.Size); p.Size != "" && (err != nil || v.Size < 1) || p.Size == "" && p.SnapshotID == "" {
		return v, wire.Errorf(400, "MissingParameter", "The request must contain the parameter size/snapshot")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.Encrypted = s.encrypted || p.Encrypted != nil && *p.Encrypted
	switch {
	case v.KMSKeyID != "" && !v.Encrypted:
		return v, wire.Errorf(400, "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	case v.KMSKeyID != "":
		// An unknown key is not refused: EC2 looks at it after it has answered.
		if arn, err := s.config.Keys.ResolveKey(v.KMSKeyID); err == nil {
			v.KMSKeyID = arn
		}
	case v.Encrypted:
		// AWS names the key of that alias, which does not exist here.
		v.KMSKeyID = "arn:aws:kms:" + s.config.Region + ":" + s.config.Account + ":alias/aws/ebs"
	}
	s.volumes = append(s.volumes, v)
	return v, nil
}

type volumesOutput struct {
	answer
	Volumes []volume `xml:"volumeSet>item"`
}

// describeVolumes lists the volumes that are asked for by their ids, or all.
// Filters are not modelled.
func (s *Service) describeVolumes(ctx context.Context, form url.Values) (any, error) {
	if len(wire.QueryList(form, "Filter")) > 0 {
		return nil, wire.Errorf(400, "InvalidParameterValue", "localaws does not model the filters of DescribeVolumes")
	}
	out := volumesOutput{answer: answerTo(ctx)}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := wire.QueryList(form, "VolumeId")
	for _, id := range ids {
		if !slices.ContainsFunc(s.volumes, func(v volume) bool { return v.ID == id.Get("") }) {
			return nil, wire.Errorf(400, "InvalidVolume.NotFound", "The volume '%s' does not exist.", id.Get(""))
		}
	}
	for _, v := range s.volumes {
		if len(ids) == 0 || slices.ContainsFunc(ids, func(id url.Values) bool { return v.ID == id.Get("") }) {
			v.Status = "available"
			out.Volumes = append(out.Volumes, v)
		}
	}
	return out, nil
}

type defaultOutput struct {
	answer
	Encrypted bool `xml:"ebsEncryptionByDefault"`
}

func (s *Service) getDefault(ctx context.Context, _ url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return defaultOutput{answerTo(ctx), s.encrypted}, nil
}

// setDefault makes the operation that sets encryption by default. CloudTrail
// wraps its request and its answer once more.
func (s *Service) setDefault(name string, encrypted bool) wire.QueryOperation {
	return func(ctx context.Context, _ url.Values) (any, error) {
		s.mu.Lock()
		s.encrypted = encrypted
		s.mu.Unlock()
		type elements struct {
			Namespace string `json:"xmlns"`
			RequestID string `json:"requestId"`
			Encrypted bool   `json:"ebsEncryptionByDefault"`
		}
		s.record(ctx, name, map[string]struct{}{name + "Request": {}}, map[string]elements{name + "Response": {namespace, wire.RequestIDFrom(ctx), encrypted}}, nil)
		return defaultOutput{answerTo(ctx), encrypted}, nil
	}
}
