# Made from ../cloudformation/cmkeeper.yaml: UPDATE_DOCS=1 go test ./deploy -run Terraform

variable "access_review" {
  description = "Read the account's IAM once a day, and alert on new roles that somebody outside may assume and that have a key, and on new principals that can give themselves one."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "daily"], var.access_review)
    error_message = "access_review must be one of off, daily."
  }
}

variable "alert_email" {
  description = "An address that gets every alert and alarm, once it has confirmed. Empty if you subscribe otherwise."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(?:|[^@\\s]+@[^@\\s]+)$", var.alert_email))
    error_message = "alert_email must have the form that its description names."
  }
}

variable "assign_public_ip" {
  description = "ENABLED only for public subnets without NAT. Nothing listens to the outside in either case."
  type        = string
  default     = "DISABLED"

  validation {
    condition     = contains(["ENABLED", "DISABLED"], var.assign_public_ip)
    error_message = "assign_public_ip must be one of ENABLED, DISABLED."
  }
}

variable "contain_allowed_roles" {
  description = "Roles and users that may open keys, such as role/break-glass, comma-separated."
  type        = string
  default     = ""
}

variable "contain_mode" {
  description = "Disable a key that is opened to everyone or to an account that is not trusted."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "observe", "enforce"], var.contain_mode)
    error_message = "contain_mode must be one of off, observe, enforce."
  }
}

variable "cpu_architecture" {
  description = "What the image was built for."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "cpu_architecture must be one of X86_64, ARM64."
  }
}

variable "data_buckets" {
  description = "ARNs of the buckets whose objects may be moved, with * for any text."
  type        = list(string)
  default     = ["arn:aws:s3:::*"]
}

variable "deletion_mode" {
  description = "Cancel deletions, and enable disabled keys again."
  type        = string
  default     = "observe"

  validation {
    condition     = contains(["off", "observe", "enforce"], var.deletion_mode)
    error_message = "deletion_mode must be one of off, observe, enforce."
  }
}

variable "drain_seconds" {
  description = "How long running work may go on when a task is stopped. ECS kills the task after 120 seconds, five more than the longest drain."
  type        = number
  default     = 25

  validation {
    condition     = var.drain_seconds >= 10 && var.drain_seconds <= 110
    error_message = "drain_seconds must be from 10 to 110."
  }
}

variable "failed_use" {
  description = "Alert when somebody needs a key that is disabled or about to be deleted. Adds a rule over all management events."
  type        = bool
  default     = false
}

variable "fix_bucket_default" {
  description = "Move a bucket's default encryption with its objects, too."
  type        = bool
  default     = false
}

variable "image" {
  description = "The image of cmkeeper, by digest or by a tag that never moves, such as ACCOUNT.dkr.ecr.REGION.amazonaws.com/cmkeeper@sha256:…."
  type        = string

  validation {
    condition     = can(regex("^(?:[a-z0-9][A-Za-z0-9._:/@-]{1,500})$", var.image))
    error_message = "image must have the form that its description names."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 180, 365, 400, 731, 1827, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of 30, 60, 90, 180, 365, 400, 731, 1827, 3653."
  }
}

variable "max_tasks" {
  description = "Tasks of each service at most."
  type        = number
  default     = 6

  validation {
    condition     = var.max_tasks >= 2 && var.max_tasks <= 50
    error_message = "max_tasks must be from 2 to 50."
  }
}

variable "min_tasks" {
  description = "Tasks of each service that always run. Two are in two Availability Zones."
  type        = number
  default     = 2

  validation {
    condition     = var.min_tasks >= 2 && var.min_tasks <= 10
    error_message = "min_tasks must be from 2 to 10."
  }
}

variable "policy_mode" {
  description = "Judge key policies, and put the good one back."
  type        = string
  default     = "observe"

  validation {
    condition     = contains(["off", "observe", "enforce"], var.policy_mode)
    error_message = "policy_mode must be one of off, observe, enforce."
  }
}

variable "reencrypt_aliases" {
  description = "Patterns of the aliases whose moves may move data, such as alias/app-*, comma-separated."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(?:|(\\*|alias/[^, ]+)(, ?(\\*|alias/[^, ]+))*)$", var.reencrypt_aliases))
    error_message = "reencrypt_aliases must have the form that its description names."
  }
}

variable "reencrypt_engine" {
  description = "Who moves the objects, the workers (fleet), S3 Batch Operations (batch), or these for large buckets (auto)."
  type        = string
  default     = "fleet"

  validation {
    condition     = contains(["fleet", "batch", "auto"], var.reencrypt_engine)
    error_message = "reencrypt_engine must be one of fleet, batch, auto."
  }
}

variable "reencrypt_envelopes" {
  description = "Where jobs look for data keys of client-side encryption, to move them too. Content reads the beginning of each object."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "metadata", "content"], var.reencrypt_envelopes)
    error_message = "reencrypt_envelopes must be one of off, metadata, content."
  }
}

variable "reencrypt_mode" {
  description = "Move S3 objects when an alias moves. Off leaves out the service for jobs; enforce needs ReencryptAliases."
  type        = string
  default     = "observe"

  validation {
    condition     = contains(["off", "observe", "enforce"], var.reencrypt_mode)
    error_message = "reencrypt_mode must be one of off, observe, enforce."
  }
}

variable "reencrypt_rewrite_files" {
  description = "Write objects of up to 16 MiB anew whose body holds their data key, such as SOPS files. Needs ReencryptEnvelopes=content."
  type        = bool
  default     = false
}

variable "report_schedule" {
  description = "Write the report about the keys to the state bucket once a week."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "weekly"], var.report_schedule)
    error_message = "report_schedule must be one of off, weekly."
  }
}

variable "rotation_mode" {
  description = "Switch rotation on again. Begin with observe."
  type        = string
  default     = "observe"

  validation {
    condition     = contains(["off", "observe", "enforce"], var.rotation_mode)
    error_message = "rotation_mode must be one of off, observe, enforce."
  }
}

variable "route_tables" {
  description = "Route tables of the subnets, for a gateway endpoint of S3. Empty for none."
  type        = list(string)
  default     = []
}

variable "security_group" {
  description = "A security group for the tasks that lets out TCP 443. Empty to create one."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(?:|sg-[0-9a-f]{8,17})$", var.security_group))
    error_message = "security_group must have the form that its description names."
  }
}

variable "settings_file" {
  description = "ARN of an S3 object with further variables of docs/configuration.md, one NAME=value a line. Empty for none."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(?:|arn:aws[a-z-]*:s3:::[^/*]+/[^*]+\\.env)$", var.settings_file))
    error_message = "settings_file must have the form that its description names."
  }
}

variable "subnets" {
  description = "Subnets of at least two Availability Zones, with a way to AWS's services by NAT, endpoints or public addresses."
  type        = list(string)
}

variable "sweep_minutes" {
  description = "How often all keys are looked at. The alarms on silence need at least one sweep an hour."
  type        = number
  default     = 60

  validation {
    condition     = var.sweep_minutes >= 15 && var.sweep_minutes <= 60
    error_message = "sweep_minutes must be from 15 to 60."
  }
}

variable "trusted_accounts" {
  description = "Ids of your other accounts, comma-separated, that key policies may name."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(?:|\\d{12}(, ?\\d{12})*)$", var.trusted_accounts))
    error_message = "trusted_accounts must have the form that its description names."
  }
}

variable "trusted_orgs" {
  description = "Ids of organizations, o-…, comma-separated, that key policies may let in. As a rule your own."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(?:|o-[a-z0-9]{10,32}(, ?o-[a-z0-9]{10,32})*)$", var.trusted_orgs))
    error_message = "trusted_orgs must have the form that its description names."
  }
}

variable "vpc_endpoints" {
  description = "Create interface endpoints for KMS and all the other services that the tasks call, for subnets without another way out."
  type        = bool
  default     = false
}

variable "vpc_id" {
  description = "The VPC that the tasks run in."
  type        = string
}
