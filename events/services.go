package events

import "strings"

// The parameters of calls of other services than KMS are read from the texts of
// request and response, which are known to be well formed. What is too long there is left
// out: AWS takes no such call.

func trail(r record) Detail { return Trail{Name: scan(r.Request).member("name")} }

func eventSelectors(r record) Detail { return scan(r.Request).eventSelectors() }

func rule(r record) Detail { return scan(r.Request).rule() }

func queue(r record) Detail { return scan(r.Request).queue() }

func topic(r record) Detail { return scan(r.Request).topic() }

func bucketEncryption(r record) Detail { return scan(r.Request).bucketEncryption() }

func bucketPolicy(r record) Detail { return BucketPolicy{Bucket: scan(r.Request).member("bucketName")} }

func bucketTags(r record) Detail { return BucketTags{Bucket: scan(r.Request).member("bucketName")} }

func volume(r record) Detail {
	asked, made := scan(r.Request).volume(), scan(r.Response).volume()
	return Volume{ID: made.ID, Encrypted: asked.Encrypted || made.Encrypted, Key: firstOf(made.Key, asked.Key)}
}

func ebsDefaultOff(record) Detail { return DisableEbsEncryptionByDefault{} }

func database(r record) Detail {
	asked, made := scan(r.Request).database(), scan(r.Response).database()
	return Database{
		Name: firstOf(asked.Name, made.Name), Cluster: firstOf(asked.Cluster, made.Cluster),
		Encrypted: asked.Encrypted || made.Encrypted, Key: firstOf(made.Key, asked.Key),
	}
}

func (s *scanner) eventSelectors() (e EventSelectors) {
	for name := range s.members {
		switch name {
		case "trailName":
			e.Trail = s.string()
		case "eventSelectors":
			e.Basic = nil
			for range s.list {
				e.Basic = append(e.Basic, s.eventSelector())
			}
		case "advancedEventSelectors":
			e.Advanced = nil
			for range s.list {
				e.Advanced = append(e.Advanced, s.advancedSelector())
			}
		}
	}
	return e
}

// eventSelector reads a basic event selector, with CloudTrail's defaults.
func (s *scanner) eventSelector() EventSelector {
	e := EventSelector{ReadWriteType: "All", Management: true}
	for name := range s.members {
		switch name {
		case "readWriteType":
			e.ReadWriteType = firstOf(s.string(), "All")
		case "includeManagementEvents":
			e.Management = s.peek() != 'f'
		case "excludeManagementEventSources":
			e.ExcludedSources = s.strings()
		}
	}
	return e
}

func (s *scanner) advancedSelector() (a AdvancedSelector) {
	for name := range s.members {
		if name != "fieldSelectors" {
			continue
		}
		a = nil
		for range s.list {
			a = append(a, s.fieldSelectors()...)
		}
	}
	return a
}

// fieldSelectors reads what is asked of one field, an operator a member.
func (s *scanner) fieldSelectors() []FieldSelector {
	var field string
	var all []FieldSelector
	for name := range s.members {
		switch name {
		case "field":
			field = s.string()
		case "equals", "notEquals", "startsWith", "notStartsWith", "endsWith", "notEndsWith":
			if values := s.strings(); len(values) > 0 {
				all = append(all, FieldSelector{Operator: name, Values: values})
			}
		}
	}
	for i := range all {
		all[i].Field = field
	}
	return all
}

func (s *scanner) rule() (r Rule) {
	for name := range s.members {
		switch name {
		case "name", "rule": // PutTargets and RemoveTargets call it rule
			r.Name = s.string()
		case "eventBusName":
			r.Bus = s.string()
		case "state":
			r.State = s.string()
		case "eventPattern":
			r.Pattern = s.string()
		}
	}
	return r
}

func (s *scanner) queue() (q Queue) {
	for name := range s.members {
		switch name {
		case "queueUrl":
			q.URL = s.string()
		case "attributes":
			q.Attributes = nil
			for name := range s.members {
				if q.Attributes == nil {
					q.Attributes = map[string]string{}
				}
				q.Attributes[name] = s.string()
			}
		}
	}
	return q
}

func (s *scanner) topic() (t Topic) {
	for name := range s.members {
		switch name {
		case "topicArn":
			t.ARN = s.string()
		case "subscriptionArn":
			t.Subscription = s.string()
		case "attributeName":
			t.Attribute = s.string()
		}
	}
	if t.ARN == "" {
		if i := strings.LastIndexByte(t.Subscription, ':'); i > 0 {
			t.ARN = t.Subscription[:i]
		}
	}
	return t
}

func (s *scanner) bucketEncryption() (b BucketEncryption) {
	for name := range s.members {
		switch name {
		case "bucketName":
			b.Bucket = s.string()
		case "ServerSideEncryptionConfiguration":
			for name := range s.members {
				if name != "Rule" {
					continue
				}
				// How S3 writes its one rule is not documented: both forms are read.
				if s.peek() != '[' {
					b.Algorithm, b.Key = s.encryptionRule()
					continue
				}
				for range s.elements {
					b.Algorithm, b.Key = s.encryptionRule()
				}
			}
		}
	}
	return b
}

func (s *scanner) encryptionRule() (algorithm, key string) {
	for name := range s.members {
		if name != "ApplyServerSideEncryptionByDefault" {
			continue
		}
		algorithm, key = "", ""
		for name := range s.members {
			switch name {
			case "SSEAlgorithm":
				algorithm = s.string()
			case "KMSMasterKeyID":
				key = s.string()
			}
		}
	}
	return algorithm, key
}

func (s *scanner) volume() (v Volume) {
	for name := range s.members {
		switch name {
		case "volumeId":
			v.ID = s.string()
		case "encrypted":
			v.Encrypted = s.bool()
		case "kmsKeyId", "masterEncryptionKeyId": // which one EC2 writes is not documented
			v.Key = s.string()
		}
	}
	return v
}

func (s *scanner) database() (d Database) {
	for name := range s.members {
		switch name {
		case "dBInstanceIdentifier":
			d.Name = s.string()
		case "dBClusterIdentifier":
			d.Cluster = s.string()
		case "storageEncrypted":
			d.Encrypted = s.bool()
		case "kmsKeyId":
			d.Key = s.string()
		}
	}
	return d
}
