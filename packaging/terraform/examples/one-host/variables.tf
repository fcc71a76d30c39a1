variable "name" {
  description = "What every resource is named after."
  type        = string
  default     = "perch"
}

variable "environment" {
  description = "`development`, `test` or `production`."
  type        = string

  # One state holds one installation: another environment's file would destroy that, to make its own in its place.
  validation {
    condition     = contains(["default", var.environment], terraform.workspace)
    error_message = "This is the workspace `${terraform.workspace}`, and the environment is ${var.environment}: `terraform workspace select -or-create ${var.environment}` first."
  }
}

variable "region" {
  description = "Where to put it, such as `eu-central-1`."
  type        = string
}

variable "package" {
  description = "The package to install: a `file` here, or a `url` and its `sha256`."
  type = object({
    file   = optional(string)
    url    = optional(string)
    sha256 = optional(string)
  })
}

variable "architecture" {
  description = "`x86_64`, or `arm64` for Graviton: of the package, the image and the instance type."
  type        = string
  default     = "x86_64"
}

variable "instance_type" {
  description = "The host."
  type        = string
  default     = "t3.micro"
}

variable "ami_id" {
  description = "The image; without one the newest Amazon Linux 2023, and each newer one replaces the hosts with all that is on them."
  type        = string
  default     = null
}

variable "ship_journal" {
  description = "Whether the journal goes to CloudWatch."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "How long CloudWatch keeps it; without a number 90 days in production, else 7."
  type        = number
  default     = null
}

variable "http_cidrs" {
  description = "Who may open the chat page."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "http_ports" {
  description = "The ports that it is opened at: those that the configuration listens on."
  type        = list(number)
  default     = [80]
}

variable "domain" {
  description = "A name in a Route 53 zone."
  type = object({
    name    = string
    zone_id = string
  })
  default = null
}

variable "alarm_email" {
  description = "Who gets a mail when an alarm goes off."
  type        = string
  default     = null
}
