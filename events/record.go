package events

import (
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// event types the record; envelope is the zero message where there is none.
func (r *record) event(envelope *message) (Event, error) {
	e := Event{
		ID:           firstOf(r.SharedEventID, r.OriginalEventID, r.EventID, envelope.ID),
		RecordID:     r.EventID,
		RequestID:    r.RequestID,
		Kind:         APICall,
		Name:         r.EventName,
		Source:       r.EventSource,
		Region:       firstOf(r.AWSRegion, envelope.Region),
		Account:      firstOf(r.RecipientAccountID, envelope.Account, r.UserIdentity.AccountID),
		Actor:        r.UserIdentity.actor(),
		SourceIP:     r.SourceIPAddress,
		UserAgent:    r.UserAgent,
		ErrorCode:    r.ErrorCode,
		ErrorMessage: r.ErrorMessage,
		ReadOnly:     r.ReadOnly,
	}
	if r.EventType == "AwsServiceEvent" || r.EventType == "" && envelope.DetailType == "AWS Service Event via CloudTrail" {
		e.Kind = ServiceEvent
	}
	var err error
	if e.Time, err = parseTime("eventTime", r.EventTime); err != nil {
		return Event{}, err
	}
	if err := e.complete(); err != nil {
		return Event{}, err
	}
	e.Detail = r.detail(e.Source, e.Name)
	if e.Source != SourceKMS || r.EventCategory == "NetworkActivity" {
		// What passes a VPC endpoint is recorded for the endpoint's owner, whose keys
		// it need not be about; the call itself has a record of its own.
		return e, nil
	}
	request, response, details := &r.RequestParameters, &r.ResponseElements, &r.ServiceEventDetails
	e.Alias = firstOf(aliasName(request.AliasName), aliasName(request.KeyID))
	e.KeyARN = e.keyOf(r.Resources, request, response, details)
	if e.Name == "ReEncrypt" {
		e.KeyARN = firstOf(e.KeyARN, e.keyARN(request.SourceKeyID), e.keyARN(request.DestinationKeyID))
		e.OtherKeyARN = e.otherKeyOf(r.Resources, request, response)
	}
	return e, nil
}

// otherKeyOf finds the second key of a ReEncrypt. Which of the two is the source does
// not matter, and the resources are in no fixed order.
func (e Event) otherKeyOf(resources []string, request, response *parameters) string {
	for _, id := range append([]string{request.SourceKeyID, request.DestinationKeyID, response.SourceKeyID}, resources...) {
		if key := e.keyARN(id); key != e.KeyARN && key != "" {
			return key
		}
	}
	return ""
}

// keyOf finds the key that a record is about: the answer names it most surely
// and the request least, since KMS has not resolved that yet.
func (e Event) keyOf(resources []string, request, response, details *parameters) string {
	for _, name := range [...]string{response.KeyID, response.KeyMetadata.ARN} {
		if isKeyARN(name) {
			return name
		}
	}
	if key := firstKeyARN(resources); key != "" {
		return key
	}
	for _, id := range [...]string{request.KeyID, request.TargetKeyID, response.KeyID, details.KeyID} {
		if key := e.keyARN(id); key != "" {
			return key
		}
	}
	return ""
}

// firstKeyARN returns the first key among resources. They list aliases too, with
// the same type and in no fixed order.
func firstKeyARN(resources []string) string {
	for _, name := range resources {
		if isKeyARN(name) {
			return name
		}
	}
	return ""
}

// keyARN makes an ARN of a key that was named by its ARN or id; "" for an alias
// and for what is neither. A bare id means a key of the caller's account and of the
// Region of the call: KMS takes other accounts' keys by ARN only.
func (e Event) keyARN(id string) string {
	if isKeyARN(id) {
		return id
	}
	if !isKeyID(id) {
		return ""
	}
	key := arn.ARN{Partition: partition(e.Region), Service: "kms", Region: e.Region, Account: firstOf(e.Actor.AccountID, e.Account), Resource: "key/" + id}.String()
	if !isKeyARN(key) { // a colon in what should be a Region or an account
		return ""
	}
	return key
}

// isKeyARN reports whether s is the ARN of a key.
func isKeyARN(s string) bool { return isKeyID(arn.KeyID(s)) }

// isKeyID reports whether s can be a key id. Ids become parts of names
// elsewhere, so nothing but what KMS uses may pass; and where CloudTrail hides a
// value it writes a word with underscores.
func isKeyID(s string) bool {
	for _, c := range s {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != ""
}

// aliasName returns the name in an alias name or alias ARN, else "".
func aliasName(id string) string {
	name := id
	if a := arn.Parse(id); a.Service == "kms" {
		name = a.Resource
	}
	if rest, ok := strings.CutPrefix(name, "alias/"); !ok || rest == "" {
		return ""
	}
	return name
}

// partition returns the AWS partition of a Region (AWS SDK, partitions.json).
func partition(region string) string {
	for _, p := range [...]struct{ prefix, partition string }{
		{"cn-", "aws-cn"},
		{"us-gov-", "aws-us-gov"},
		{"us-iso-", "aws-iso"},
		{"us-isob-", "aws-iso-b"},
		{"eu-isoe-", "aws-iso-e"},
		{"us-isof-", "aws-iso-f"},
		{"eusc-", "aws-eusc"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}

// firstOf returns the first value that is not empty.
func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
