package kms

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// envelope is EventBridge's form of an event.
type envelope struct {
	Version    string          `json:"version"`
	ID         string          `json:"id"`
	DetailType string          `json:"detail-type"`
	Source     string          `json:"source"`
	Account    string          `json:"account"`
	Time       string          `json:"time"`
	Region     string          `json:"region"`
	Resources  []string        `json:"resources"`
	Detail     json.RawMessage `json:"detail"`
}

// trailRecord is a CloudTrail record of version 1.11.
type trailRecord struct {
	EventVersion        string          `json:"eventVersion"`
	UserIdentity        userIdentity    `json:"userIdentity"`
	EventTime           string          `json:"eventTime"`
	EventSource         string          `json:"eventSource"`
	EventName           string          `json:"eventName"`
	AWSRegion           string          `json:"awsRegion"`
	SourceIPAddress     string          `json:"sourceIPAddress"`
	UserAgent           string          `json:"userAgent"`
	ErrorCode           string          `json:"errorCode,omitempty"`
	ErrorMessage        string          `json:"errorMessage,omitempty"`
	RequestParameters   json.RawMessage `json:"requestParameters"`
	ResponseElements    json.RawMessage `json:"responseElements"`
	AdditionalEventData json.RawMessage `json:"additionalEventData,omitempty"`
	RequestID           string          `json:"requestID,omitempty"`
	EventID             string          `json:"eventID"`
	ReadOnly            bool            `json:"readOnly"`
	Resources           []trailResource `json:"resources,omitempty"`
	EventType           string          `json:"eventType"`
	ManagementEvent     bool            `json:"managementEvent"`
	RecipientAccountID  string          `json:"recipientAccountId"`
	SharedEventID       string          `json:"sharedEventID,omitempty"`
	ServiceEventDetails json.RawMessage `json:"serviceEventDetails,omitempty"`
	EventCategory       string          `json:"eventCategory"`
	TLSDetails          *tlsDetails     `json:"tlsDetails,omitempty"`
}

type userIdentity struct {
	Type           string          `json:"type,omitempty"`
	PrincipalID    string          `json:"principalId,omitempty"`
	ARN            string          `json:"arn,omitempty"`
	AccountID      string          `json:"accountId"`
	AccessKeyID    string          `json:"accessKeyId,omitempty"`
	UserName       string          `json:"userName,omitempty"`
	SessionContext *sessionContext `json:"sessionContext,omitempty"`
	InvokedBy      string          `json:"invokedBy,omitempty"`
}

type sessionContext struct {
	SessionIssuer sessionIssuer     `json:"sessionIssuer"`
	Attributes    sessionAttributes `json:"attributes"`
}

type sessionIssuer struct {
	Type        string `json:"type"`
	PrincipalID string `json:"principalId"`
	ARN         string `json:"arn"`
	AccountID   string `json:"accountId"`
	UserName    string `json:"userName"`
}

type sessionAttributes struct {
	CreationDate     string `json:"creationDate"`
	MFAAuthenticated string `json:"mfaAuthenticated"`
}

// trailResource names a key or an alias; CloudTrail gives both the same type.
type trailResource struct {
	AccountID string `json:"accountId"`
	Type      string `json:"type"`
	ARN       string `json:"ARN"`
}

type tlsDetails struct {
	TLSVersion               string `json:"tlsVersion"`
	CipherSuite              string `json:"cipherSuite"`
	ClientProvidedHostHeader string `json:"clientProvidedHostHeader"`
}

const (
	apiCall      = "AWS API Call via CloudTrail"
	serviceEvent = "AWS Service Event via CloudTrail"
	awsInternal  = "AWS Internal"
)

func trailTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// record makes the CloudTrail record of a finished call. Of a caller from
// another account, the denial is recorded there only, and the rest in both.
func (s *Service) record(c *call, err error) {
	foreign := c.caller.AccountID != s.account
	if foreign && wire.IsCode(err, "AccessDeniedException") {
		return
	}
	r := s.newRecord(c.name, c.now)
	r.EventID, r.RequestID, r.ReadOnly = c.eventID, c.requestID, c.readOnly
	r.EventType = "AwsApiCall"
	r.UserIdentity = c.identity()
	if foreign {
		r.SharedEventID = wire.NewUUID()
		r.UserIdentity = userIdentity{Type: "AWSAccount", PrincipalID: c.caller.PrincipalID, AccountID: c.caller.AccountID}
	}
	r.SourceIPAddress, r.UserAgent = c.caller.SourceIP, c.caller.UserAgent
	r.TLSDetails = &tlsDetails{TLSVersion: "TLSv1.3", CipherSuite: "TLS_AES_256_GCM_SHA384", ClientProvidedHostHeader: "kms." + s.region + ".amazonaws.com"}
	if c.via != "" {
		r.SourceIPAddress, r.UserAgent, r.UserIdentity.InvokedBy, r.TLSDetails = awsInternal, awsInternal, awsInternal, nil
	}
	r.RequestParameters = trailJSON(c.params)
	if c.grantID != "" {
		r.AdditionalEventData = trailJSON(grantData{GrantID: c.grantID})
	}
	resources := c.resources
	if len(resources) == 0 && c.key != nil {
		resources = []string{c.key.arn}
	}
	for _, arn := range resources {
		r.Resources = append(r.Resources, s.trailResource(arn))
	}
	switch {
	case err != nil:
		e := wire.AsError(err)
		// CloudTrail writes the denial of KMS without the suffix of the wire's code.
		r.ErrorCode, r.ErrorMessage = strings.Replace(e.Code, "AccessDeniedException", "AccessDenied", 1), e.Message
	case c.readOnly:
	case c.response != nil:
		r.ResponseElements = trailJSON(c.response)
	case c.key != nil:
		r.ResponseElements = trailJSON(keyIDInput{KeyID: c.key.arn})
	}
	s.emit(apiCall, c.now, []string{}, r)
}

type grantData struct {
	GrantID string `json:"GrantId"`
}

func (s *Service) newRecord(name string, now time.Time) trailRecord {
	return trailRecord{
		EventVersion: "1.11", EventTime: trailTime(now), EventSource: "kms.amazonaws.com", EventName: name,
		AWSRegion: s.region, EventID: wire.NewUUID(), ManagementEvent: true, RecipientAccountID: s.account,
		EventCategory: "Management",
	}
}

func (s *Service) trailResource(arn string) trailResource {
	return trailResource{AccountID: s.account, Type: "AWS::KMS::Key", ARN: arn}
}

// identity is the caller as userIdentity.
func (c *call) identity() userIdentity {
	u := userIdentity{
		Type: c.caller.Type, PrincipalID: c.caller.PrincipalID, ARN: c.caller.ARN, AccountID: c.caller.AccountID,
		AccessKeyID: c.caller.AccessKeyID, UserName: c.caller.UserName,
	}
	role := c.role()
	if role == "" {
		return u
	}
	id, _, _ := strings.Cut(c.caller.PrincipalID, ":")
	u.SessionContext = &sessionContext{
		SessionIssuer: sessionIssuer{
			Type: "Role", PrincipalID: id, ARN: role, AccountID: c.caller.AccountID,
			UserName: role[strings.LastIndexByte(role, '/')+1:],
		},
		// When the session began is not known here.
		Attributes: sessionAttributes{CreationDate: trailTime(c.now), MFAAuthenticated: "false"},
	}
	return u
}

// serviceEventDetails is what the service events of KMS tell.
type serviceEventDetails struct {
	KeyID                 string `json:"keyId"`
	KeyMaterialID         string `json:"keyMaterialId,omitempty"`
	RotationType          string `json:"rotationType,omitempty"`
	KeyOrigin             string `json:"keyOrigin,omitempty"`
	PreviousKeyMaterialID string `json:"previousKeyMaterialId,omitempty"`
	CurrentKeyMaterialID  string `json:"currentKeyMaterialId,omitempty"`
}

// nativeDetail is the detail of KMS's own events.
type nativeDetail struct {
	KeyID                 string `json:"key-id"`
	KeyMaterialID         string `json:"key-material-id,omitempty"`
	RotationType          string `json:"rotation-type,omitempty"`
	KeyOrigin             string `json:"key-origin,omitempty"`
	PreviousKeyMaterialID string `json:"previous-key-material-id,omitempty"`
	CurrentKeyMaterialID  string `json:"current-key-material-id,omitempty"`
}

// announce publishes what KMS did to a key of its own accord: the service event
// in CloudTrail, and the native event of the detail type.
func (s *Service) announce(k *key, at time.Time, eventName, detailType string, d serviceEventDetails) {
	d.KeyID = k.id
	r := s.newRecord(eventName, at)
	r.UserIdentity = userIdentity{AccountID: s.account, InvokedBy: awsInternal}
	r.SourceIPAddress, r.UserAgent, r.EventType = awsInternal, awsInternal, "AwsServiceEvent"
	r.Resources = []trailResource{s.trailResource(k.arn)}
	r.ServiceEventDetails, _ = json.Marshal(d) // strings always encode
	s.emit(serviceEvent, at, []string{}, r)
	s.emit(detailType, at, []string{k.arn}, nativeDetail(d))
}

// emit puts an event into the outbox, for flush to publish.
func (s *Service) emit(detailType string, at time.Time, resources []string, detail any) {
	if s.publish == nil {
		return
	}
	body, _ := json.Marshal(detail) // strings, booleans and finished JSON always encode
	event, _ := json.Marshal(envelope{
		Version: "0", ID: wire.NewUUID(), DetailType: detailType, Source: "aws.kms", Account: s.account,
		Time: trailTime(at), Region: s.region, Resources: resources, Detail: body,
	})
	copies := 1
	if s.trail.Duplicates > 0 && s.random.Float64() < s.trail.Duplicates {
		copies = 2
	}
	for range copies {
		delay := s.trail.Delay
		if s.trail.Jitter > 0 {
			delay += time.Duration(s.random.Int64N(int64(s.trail.Jitter)))
		}
		if delay <= 0 {
			s.outbox = append(s.outbox, event)
			continue
		}
		s.later(delay, event)
	}
}

// later publishes the event after the delay, unless the service is closed first.
func (s *Service) later(delay time.Duration, event json.RawMessage) {
	if s.closed {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(delay, func() {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return
		}
		s.callbacks.Add(1)
		defer s.callbacks.Done()
		delete(s.deliver, t)
		s.outbox = append(s.outbox, event)
		s.mu.Unlock()
		s.flush()
	})
	s.deliver[t] = struct{}{}
}

// flush publishes the outbox in order, without holding the service's lock. One
// caller at a time publishes, for all; so a subscriber may call the service.
func (s *Service) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.publishing {
		return
	}
	s.publishing = true
	defer func() { s.publishing = false }()
	for len(s.outbox) > 0 {
		events := s.outbox
		s.outbox = nil
		s.mu.Unlock()
		for _, e := range events {
			s.publish(e)
		}
		s.mu.Lock()
	}
}

// trailJSON writes a request or an answer as CloudTrail does: names begin with a
// small letter, times are text, absent members and binary ones are left out. A
// field with the tag `trail:"-"` is left out too.
func trailJSON(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	var b bytes.Buffer
	writeTrail(&b, reflect.ValueOf(v))
	return b.Bytes()
}

func writeTrail(b *bytes.Buffer, v reflect.Value) {
	if t, ok := v.Interface().(timestamp); ok {
		v = reflect.ValueOf(time.Time(t).UTC().Format("Jan 2, 2006, 3:04:05 PM"))
	}
	switch v.Kind() {
	case reflect.Pointer:
		writeTrail(b, v.Elem())
	case reflect.Struct:
		b.WriteByte('{')
		writeTrailFields(b, v)
		b.WriteByte('}')
	case reflect.Slice:
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			writeTrail(b, v.Index(i))
		}
		b.WriteByte(']')
	default:
		doc, _ := json.Marshal(v.Interface()) // strings, numbers, booleans and maps of strings always encode
		b.Write(doc)
	}
}

func writeTrailFields(b *bytes.Buffer, v reflect.Value) {
	for field, value := range v.Fields() {
		if field.Anonymous {
			writeTrailFields(b, value)
			continue
		}
		if field.Tag.Get("trail") == "-" || absent(value) {
			continue
		}
		if !bytes.HasSuffix(b.Bytes(), []byte{'{'}) {
			b.WriteByte(',')
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		b.WriteString(`"` + strings.ToLower(name[:1]) + name[1:] + `":`)
		writeTrail(b, value)
	}
}

// absent reports whether the caller did not send the member, or CloudTrail does
// not show it: bytes are never logged.
func absent(v reflect.Value) bool {
	binary := v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8
	return binary || v.Kind() != reflect.Bool && v.Kind() != reflect.Struct && v.IsZero()
}
