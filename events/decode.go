package events

// The members that are read, type by type. Each function is the table of its
// type: a JSON name, and the field that it fills. What has no line is skipped;
// of a name that comes twice the last one counts.

// message is any of the forms of a body: the fields that are set say which.
type message struct {
	// An EventBridge event. The detail is decoded with the envelope, in one
	// pass: that halves the time of two.
	ID         string
	DetailType string
	Source     string
	Account    string
	Region     string
	Time       string
	Resources  []string // ARNs
	Detail     record

	// A CloudTrail record without an envelope.
	EventName string
	Records   []string // each a JSON text

	// An SNS message.
	Type     string
	TopicARN string
	Message  string
}

func (s *scanner) message() (m message) {
	for name := range s.members {
		switch name {
		case "id":
			m.ID = s.string()
		case "detail-type":
			m.DetailType = s.string()
		case "source":
			m.Source = s.string()
		case "account":
			m.Account = s.string()
		case "region":
			m.Region = s.string()
		case "time":
			m.Time = s.string()
		case "resources":
			m.Resources = s.resources()
		case "detail":
			m.Detail = s.record()
		case "eventName":
			m.EventName = s.string()
		case "Records":
			m.Records = s.texts()
		case "Type":
			m.Type = s.string()
		case "TopicArn":
			m.TopicARN = s.string()
		case "Message":
			m.Message = s.within(len(s.text)) // a whole event
		}
	}
	return m
}

// resources reads the ARNs in a list of resources: each element is an object in
// a CloudTrail record, an ARN in an envelope.
func (s *scanner) resources() (arns []string) {
	for range s.list {
		if s.peek() == '{' {
			arns = append(arns, s.member("ARN"))
		} else {
			arns = append(arns, s.string())
		}
	}
	return arns
}

// texts reads an array as the JSON texts of its elements.
func (s *scanner) texts() (list []string) {
	for range s.list {
		at := s.pos
		s.skip()
		list = append(list, s.text[at:s.pos])
	}
	return list
}

// record is a CloudTrail record
// (CloudTrail User Guide, "CloudTrail record contents").
type record struct {
	EventType           string
	EventName           string
	EventSource         string
	EventTime           string
	EventID             string
	SharedEventID       string
	OriginalEventID     string // of an addendum: what it adds to
	EventCategory       string
	RequestID           string
	AWSRegion           string
	RecipientAccountID  string
	SourceIPAddress     string
	UserAgent           string
	ErrorCode           string
	ErrorMessage        string
	ReadOnly            bool
	UserIdentity        identity
	Resources           []string
	RequestParameters   parameters
	ResponseElements    parameters
	ServiceEventDetails parameters
	Additional          additional

	// Request and Response are the texts of requestParameters and
	// responseElements, for services that write other things there than KMS: only
	// those events that are about one are read again.
	Request, Response string

	// Native is set instead of everything else in the detail of an event
	// without CloudTrail.
	Native nativeDetail
}

func (s *scanner) record() (r record) {
	for name := range s.members {
		switch name {
		case "eventType":
			r.EventType = s.string()
		case "eventName":
			r.EventName = s.string()
		case "eventSource":
			r.EventSource = s.string()
		case "eventTime":
			r.EventTime = s.string()
		case "eventID":
			r.EventID = s.string()
		case "sharedEventID":
			r.SharedEventID = s.string()
		case "addendum":
			r.OriginalEventID = s.member("originalEventID")
		case "eventCategory":
			r.EventCategory = s.string()
		case "requestID":
			r.RequestID = s.string()
		case "awsRegion":
			r.AWSRegion = s.string()
		case "recipientAccountId":
			r.RecipientAccountID = s.string()
		case "sourceIPAddress":
			r.SourceIPAddress = s.string()
		case "userAgent":
			r.UserAgent = s.string()
		case "errorCode":
			r.ErrorCode = s.string()
		case "errorMessage":
			r.ErrorMessage = s.string()
		case "readOnly":
			r.ReadOnly = s.bool()
		case "userIdentity":
			r.UserIdentity = s.identity()
		case "resources":
			r.Resources = s.resources()
		case "requestParameters":
			at := s.pos
			r.RequestParameters = s.parameters()
			r.Request = s.text[at:s.pos]
		case "responseElements":
			at := s.pos
			r.ResponseElements = s.parameters()
			r.Response = s.text[at:s.pos]
		case "serviceEventDetails":
			r.ServiceEventDetails = s.parameters()
		case "additionalEventData":
			r.Additional = s.additional()

		case "key-id":
			r.Native.KeyID = s.string()
		case "key-origin":
			r.Native.KeyOrigin = s.string()
		case "key-material-id":
			r.Native.KeyMaterialID = s.string()
		case "rotation-type":
			r.Native.RotationType = s.string()
		case "previous-key-material-id":
			r.Native.PreviousKeyMaterialID = s.string()
		case "current-key-material-id":
			r.Native.CurrentKeyMaterialID = s.string()
		}
	}
	return r
}

// nativeDetail is the detail of KMS's native events
// (KMS Developer Guide, "Monitor KMS keys with Amazon EventBridge").
type nativeDetail struct {
	KeyID                 string
	KeyOrigin             string
	KeyMaterialID         string
	RotationType          string
	PreviousKeyMaterialID string
	CurrentKeyMaterialID  string
}

// identity is a record's userIdentity
// (CloudTrail User Guide, "CloudTrail userIdentity element").
type identity struct {
	Type        string
	PrincipalID string
	ARN         string
	AccountID   string
	AccessKeyID string
	UserName    string
	InvokedBy   string
	OnBehalfOf  string // a user of Identity Center
	Session     sessionContext
}

func (s *scanner) identity() (u identity) {
	for name := range s.members {
		switch name {
		case "type":
			u.Type = s.string()
		case "principalId":
			u.PrincipalID = s.string()
		case "arn":
			u.ARN = s.string()
		case "accountId":
			u.AccountID = s.string()
		case "accessKeyId":
			u.AccessKeyID = s.string()
		case "userName":
			u.UserName = s.string()
		case "invokedBy":
			u.InvokedBy = s.string()
		case "onBehalfOf":
			u.OnBehalfOf = s.member("userId")
		case "sessionContext":
			u.Session = s.sessionContext()
		}
	}
	return u
}

type sessionContext struct {
	Issuer issuer
	MFA    string // "true" or "false"
}

func (s *scanner) sessionContext() (c sessionContext) {
	for name := range s.members {
		switch name {
		case "sessionIssuer":
			c.Issuer = s.issuer()
		case "attributes":
			c.MFA = s.member("mfaAuthenticated")
		}
	}
	return c
}

// issuer is whose credentials a session has.
type issuer struct {
	Type string
	ARN  string
}

func (s *scanner) issuer() (i issuer) {
	for name := range s.members {
		switch name {
		case "type":
			i.Type = s.string()
		case "arn":
			i.ARN = s.string()
		}
	}
	return i
}

// additional is a record's additionalEventData, as far as KMS writes there what
// it writes nowhere else.
type additional struct {
	GrantID            string
	CustomKeyStoreName string
}

func (s *scanner) additional() (a additional) {
	for name := range s.members {
		switch name {
		case "grantId":
			a.GrantID = s.string()
		case "customKeyStoreName":
			a.CustomKeyStoreName = s.string()
		}
	}
	return a
}

// parameters holds what KMS writes into requestParameters, responseElements and
// serviceEventDetails, for all operations: their names do not collide.
type parameters struct {
	KeyID       string
	AliasName   string
	TargetKeyID string

	SourceKeyID        string
	DestinationKeyID   string
	Context            map[string]string
	SourceContext      map[string]string
	DestinationContext map[string]string

	PolicyName    string
	Policy        string
	ReplicaPolicy string
	BypassCheck   bool

	Description           string
	Origin                string
	KeySpec               string
	CustomerMasterKeySpec string // keySpec, before 2021
	KeyUsage              string
	MultiRegion           bool
	CustomKeyStoreID      string
	CustomKeyStoreName    string

	ReplicaRegion string
	PrimaryRegion string

	PendingWindowInDays  int
	RotationPeriodInDays int

	GrantID                 string
	GranteePrincipal        string
	GranteeServicePrincipal string
	RetiringPrincipal       string
	Operations              []string
	Constrained             bool

	ExpirationModel       string
	KeyMaterialID         string
	RotationType          string
	KeyOrigin             string
	PreviousKeyMaterialID string
	CurrentKeyMaterialID  string

	Tags    map[string]string
	TagKeys []string

	KeyMetadata        keyMetadata
	ReplicaKeyMetadata keyMetadata
}

func (s *scanner) parameters() (p parameters) {
	for name := range s.members {
		switch name {
		case "keyId":
			p.KeyID = s.string()
		case "aliasName":
			p.AliasName = s.string()
		case "targetKeyId":
			p.TargetKeyID = s.string()
		case "sourceKeyId":
			p.SourceKeyID = s.string()
		case "destinationKeyId":
			p.DestinationKeyID = s.string()
		case "encryptionContext":
			p.Context = s.context()
		case "sourceEncryptionContext":
			p.SourceContext = s.context()
		case "destinationEncryptionContext":
			p.DestinationContext = s.context()
		case "policyName":
			p.PolicyName = s.string()
		case "policy":
			p.Policy = s.string()
		case "replicaPolicy":
			p.ReplicaPolicy = s.string()
		case "bypassPolicyLockoutSafetyCheck":
			p.BypassCheck = s.bool()
		case "description":
			p.Description = s.string()
		case "origin":
			p.Origin = s.string()
		case "keySpec":
			p.KeySpec = s.string()
		case "customerMasterKeySpec":
			p.CustomerMasterKeySpec = s.string()
		case "keyUsage":
			p.KeyUsage = s.string()
		case "multiRegion":
			p.MultiRegion = s.bool()
		case "customKeyStoreId":
			p.CustomKeyStoreID = s.string()
		case "customKeyStoreName":
			p.CustomKeyStoreName = s.string()
		case "replicaRegion":
			p.ReplicaRegion = s.string()
		case "primaryRegion":
			p.PrimaryRegion = s.string()
		case "pendingWindowInDays":
			p.PendingWindowInDays = s.int()
		case "rotationPeriodInDays":
			p.RotationPeriodInDays = s.int()
		case "grantId":
			p.GrantID = s.string()
		case "granteePrincipal":
			p.GranteePrincipal = s.string()
		case "granteeServicePrincipal":
			p.GranteeServicePrincipal = s.string()
		case "retiringPrincipal":
			p.RetiringPrincipal = s.string()
		case "operations":
			p.Operations = s.strings()
		case "constraints":
			p.Constrained = s.constraints()
		case "expirationModel":
			p.ExpirationModel = s.string()
		case "keyMaterialId":
			p.KeyMaterialID = s.string()
		case "rotationType":
			p.RotationType = s.string()
		case "keyOrigin":
			p.KeyOrigin = s.string()
		case "previousKeyMaterialId":
			p.PreviousKeyMaterialID = s.string()
		case "currentKeyMaterialId":
			p.CurrentKeyMaterialID = s.string()
		case "tags":
			p.Tags = s.tags()
		case "tagKeys":
			p.TagKeys = s.strings()
		case "keyMetadata":
			p.KeyMetadata = s.keyMetadata()
		case "replicaKeyMetadata":
			p.ReplicaKeyMetadata = s.keyMetadata()
		}
	}
	return p
}

// constraints reports whether a grant's constraints hold anything.
func (s *scanner) constraints() bool {
	var subset, equals, source bool
	for name := range s.members {
		switch name {
		case "encryptionContextSubset":
			subset = s.filled()
		case "encryptionContextEquals":
			equals = s.filled()
		case "sourceArn":
			source = s.string() != ""
		}
	}
	return subset || equals || source
}

// filled passes over an object and reports whether it has members.
func (s *scanner) filled() (some bool) {
	for range s.members {
		some = true
	}
	return some
}

// tags reads a list of objects with a key and a value each.
func (s *scanner) tags() map[string]string {
	var tags map[string]string
	for range s.list {
		var key, value string
		for name := range s.members {
			switch name {
			case "tagKey":
				key = s.string()
			case "tagValue":
				value = s.string()
			}
		}
		if tags == nil {
			tags = map[string]string{}
		}
		tags[key] = value
	}
	return tags
}

// context reads an object of strings, and at most maxList of them; a value of another type is "".
func (s *scanner) context() (all map[string]string) {
	for name := range s.members {
		if all == nil {
			all = map[string]string{}
		}
		if len(all) < maxList {
			all[name] = s.string()
		}
	}
	return all
}

// keyMetadata is KMS's description of a key that a call made.
type keyMetadata struct {
	ARN         string
	Origin      string
	KeySpec     string
	KeyUsage    string
	MultiRegion bool
}

func (s *scanner) keyMetadata() (k keyMetadata) {
	for name := range s.members {
		switch name {
		case "arn":
			k.ARN = s.string()
		case "origin":
			k.Origin = s.string()
		case "keySpec":
			k.KeySpec = s.string()
		case "keyUsage":
			k.KeyUsage = s.string()
		case "multiRegion":
			k.MultiRegion = s.bool()
		}
	}
	return k
}
