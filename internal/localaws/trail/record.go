package trail

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Record is a CloudTrail record.
type Record struct {
	EventVersion        string          `json:"eventVersion"`
	UserIdentity        Identity        `json:"userIdentity"`
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
	Resources           []Resource      `json:"resources,omitempty"`
	EventType           string          `json:"eventType"`
	ManagementEvent     bool            `json:"managementEvent,omitempty"`
	RecipientAccountID  string          `json:"recipientAccountId"`
	SharedEventID       string          `json:"sharedEventID,omitempty"`
	ServiceEventDetails json.RawMessage `json:"serviceEventDetails,omitempty"`
	EventCategory       string          `json:"eventCategory,omitempty"`
	TLSDetails          *TLSDetails     `json:"tlsDetails,omitempty"`
}

func (r Record) body() json.RawMessage {
	body, _ := json.Marshal(r) // strings, booleans and finished JSON always encode
	return body
}

// Identity is a record's userIdentity: who did it.
type Identity struct {
	Type           string          `json:"type,omitempty"`
	PrincipalID    string          `json:"principalId,omitempty"`
	ARN            string          `json:"arn,omitempty"`
	AccountID      string          `json:"accountId"`
	AccessKeyID    string          `json:"accessKeyId,omitempty"`
	UserName       string          `json:"userName,omitempty"`
	SessionContext *SessionContext `json:"sessionContext,omitempty"`
	InvokedBy      string          `json:"invokedBy,omitempty"`
}

// SessionContext is of an assumed role: the role, and how its session began.
type SessionContext struct {
	SessionIssuer SessionIssuer     `json:"sessionIssuer"`
	Attributes    SessionAttributes `json:"attributes"`
}

// SessionIssuer is the role behind a session.
type SessionIssuer struct {
	Type        string `json:"type"`
	PrincipalID string `json:"principalId"`
	ARN         string `json:"arn"`
	AccountID   string `json:"accountId"`
	UserName    string `json:"userName"`
}

// SessionAttributes is how a session began.
type SessionAttributes struct {
	CreationDate     string `json:"creationDate"`
	MFAAuthenticated string `json:"mfaAuthenticated"`
}

// Resource is something that a record is about.
type Resource struct {
	AccountID string `json:"accountId"`
	Type      string `json:"type"`
	ARN       string `json:"ARN"`
}

// TLSDetails is how the caller's connection was secured.
type TLSDetails struct {
	TLSVersion               string `json:"tlsVersion"`
	CipherSuite              string `json:"cipherSuite"`
	ClientProvidedHostHeader string `json:"clientProvidedHostHeader"`
}

// The types of records, and AWS itself as the one who did something.
const (
	APICall      = "AwsApiCall"
	ServiceEvent = "AwsServiceEvent"
	AWSInternal  = "AWS Internal"
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

// detailType is what EventBridge calls events of the type of record.
func detailType(eventType string) string {
	switch eventType {
	case ServiceEvent:
		return "AWS Service Event via CloudTrail"
	case "AwsConsoleSignIn":
		return "AWS Console Sign In via CloudTrail"
	}
	return "AWS API Call via CloudTrail"
}

// Time is a time as records have it.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// Call is a finished API call as its service tells of it.
type Call struct {
	// Service is the service as its endpoint names it: "kms", "events".
	Service string
	// Operation is the API's name of the operation, and ReadOnly whether it changes nothing.
	Operation string
	ReadOnly  bool
	// Caller is who called, and RequestID the id that the answer carries.
	Caller    wire.Caller
	RequestID string
	// EventID is the record's id; "" has one made.
	EventID string
	// Time is when the call was made; zero is now.
	Time time.Time
	// Via is the service of AWS that called on the caller's behalf: AWSInternal, or
	// one that names itself ("kms.amazonaws.com"). "" is nobody.
	Via string
	// Parameters and Response are the request and the answer as structs with the
	// names of the API, AdditionalData what else the service tells; see JSON.
	Parameters, Response, AdditionalData any
	// Resources is what the call was about.
	Resources []Resource
	// Err is why the call failed, nil if it did not.
	Err error

	sharedEventID string // of a caller from another account
}

// identity is the caller as userIdentity.
func identity(c wire.Caller, at time.Time) Identity {
	u := Identity{
		Type: c.Type, PrincipalID: c.PrincipalID, ARN: c.ARN, AccountID: c.AccountID,
		AccessKeyID: c.AccessKeyID, UserName: c.UserName,
	}
	role := c.RoleARN()
	if role == c.ARN {
		return u
	}
	id, _, _ := strings.Cut(c.PrincipalID, ":")
	u.SessionContext = &SessionContext{
		SessionIssuer: SessionIssuer{
			Type: "Role", PrincipalID: id, ARN: role, AccountID: c.AccountID, UserName: role[strings.LastIndexByte(role, '/')+1:],
		},
		// When the session began is not known here.
		Attributes: SessionAttributes{CreationDate: Time(at), MFAAuthenticated: "false"},
	}
	return u
}

// errorCode is an error's code in CloudTrail, which writes a denial without the
// suffix that some services put behind it on the wire.
func errorCode(e *wire.Error) string {
	if e.Code == "AccessDeniedException" {
		return "AccessDenied"
	}
	return e.Code
}
